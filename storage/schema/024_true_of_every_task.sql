-- Student's interval and t-test stand for Wilson's and McNemar's where rows depend on each other, count differently or
-- may be right in part; and they are paired by Bonett and Price's interval, no longer by percentiles of resampled rows.

COMMENT ON COLUMN baseline.accuracy_low IS
    'Lower end of the 95 % interval: Wilson''s; Student''s of groups, weighted rows, several labels and numbers.';
COMMENT ON COLUMN baseline.accuracy_high IS 'Upper end of it.';
COMMENT ON COLUMN audit.gain_low IS
    'Lower end of the paired 95 % interval of the gain over last: Bonett and Price''s; Student''s where p_value is.';
COMMENT ON COLUMN audit.p_value IS
    'Of chosen and last layer being equally good: McNemar''s; Student''s of groups, weighted rows, several labels and numbers.';
COMMENT ON COLUMN audit.gain_over_first_p_value IS 'Of chosen and first layer being equally good, by the test of p_value.';
COMMENT ON COLUMN audit.gain_over_text_p_value IS 'Of both being equally good, by the test of p_value.';
COMMENT ON COLUMN audit.regret_p_value IS
    'Of best and chosen layer being equally good, by the test of p_value; too small, as the best was found on these rows.';
COMMENT ON COLUMN zone_audit.p_value IS 'Of the two being equally good, by the test of audit.p_value.';
COMMENT ON COLUMN score_audit.p_value IS
    'Of this and the last layer being equally good, by the test of audit.p_value.';
COMMENT ON COLUMN representation.gain_over_single_p_value IS
    'Of both being equally good, by the test of audit.p_value.';
COMMENT ON COLUMN representation.gain_over_last_p_value IS
    'Of both being equally good, by the test of audit.p_value.';
COMMENT ON COLUMN leaderboard.p_value IS
    'Of chosen and last layer being equally good, by the test of audit.p_value.';
COMMENT ON COLUMN certainty.p_value IS
    'Of chosen and the layer it is compared with being equally good, by the test of audit.p_value.';

-- What other tasks than one class a text, and poolings that came later, had made untrue.
COMMENT ON COLUMN baseline.name IS
    'text: TF-IDF of words and pairs of words, and a linear fit; of tags, the most frequent one of each word. majority: always what is most frequent in train; of numbers, one for all.';
COMMENT ON COLUMN baseline.accuracy IS
    'What the task is measured by, 0 to 1: share of test rows told right, mean F1 of labels, or share of pairs in order.';
COMMENT ON COLUMN probe.log_loss IS
    'Mean negative log likelihood, in nats; of numbers, half of the squared error over their variance in train.';
COMMENT ON COLUMN cost.rows IS 'Rows that were embedded: texts, pairs of texts, or words.';
COMMENT ON COLUMN race_step.expected_accuracy IS
    'Expected there with all the train rows (a fraction); of the first step, which shows no trend, with those read.';
COMMENT ON COLUMN race_step.stays IS
    'Whether it might still hold the best layer: the next step, where there was one, embedded rows for it.';
COMMENT ON COLUMN atlas.pooling IS 'How token states became one embedding, such as mean or last.';
COMMENT ON COLUMN audit.pooling IS 'How token states became one embedding, such as mean or last.';
COMMENT ON COLUMN certainty.pooling IS 'How token states became one embedding, such as mean or last.';
COMMENT ON COLUMN criterion.pooling IS 'How token states became one embedding, such as mean or last.';
COMMENT ON COLUMN curve_audit.pooling IS 'How token states became one embedding, such as mean or last.';
COMMENT ON COLUMN equal_depth.pooling IS 'How token states became one embedding, such as mean or last.';
COMMENT ON COLUMN inflection_point.pooling IS 'How token states became one embedding, such as mean or last.';
COMMENT ON COLUMN layer_choice.pooling IS 'How token states became one embedding, such as mean or last.';
COMMENT ON COLUMN layer_curve.pooling IS 'How token states became one embedding, such as mean or last.';
COMMENT ON COLUMN leaderboard.pooling IS 'How token states became one embedding, such as mean or last.';
COMMENT ON COLUMN pareto.pooling IS 'How token states became one embedding, such as mean or last.';
COMMENT ON COLUMN pooling_comparison.pooling IS 'How token states became one embedding, such as mean or last.';
COMMENT ON COLUMN probe.pooling IS 'How token states became one embedding, such as mean or last.';
COMMENT ON COLUMN score_audit.pooling IS 'How token states became one embedding, such as mean or last.';
COMMENT ON COLUMN silhouette.pooling IS 'How token states became one embedding, such as mean or last.';
COMMENT ON COLUMN silhouette_by_class.pooling IS 'How token states became one embedding, such as mean or last.';
COMMENT ON COLUMN table_1.pooling IS 'How token states became one embedding, such as mean or last.';
COMMENT ON COLUMN table_2.pooling IS 'How token states became one embedding, such as mean or last.';
COMMENT ON COLUMN trend.pooling IS 'How token states became one embedding, such as mean or last.';
COMMENT ON COLUMN zone_audit.pooling IS 'How token states became one embedding, such as mean or last.';
COMMENT ON COLUMN atlas.classes IS
    'Classes that silhouettes tell apart; of numbers their parts, of several labels their sets.';

-- What --max-layer and --time-column had, too.
COMMENT ON COLUMN probe.accuracy IS
    'What the task is measured by, 0 to 1: share of test rows told right, mean F1 of labels, or share of pairs in order.';
COMMENT ON COLUMN probe.majority_accuracy IS
    'The same of telling every test row what is most frequent in train, or one number for all.';
COMMENT ON COLUMN certainty.majority_accuracy IS
    'What telling every test row the most frequent in train, or one number for all, is worth.';
COMMENT ON COLUMN audit.last_accuracy IS 'Of the last layer, or of the deepest run with --max-layer, 0 to 1.';
COMMENT ON COLUMN leaderboard.last_accuracy IS 'Of the last layer, or of the deepest run with --max-layer, 0 to 1.';
COMMENT ON COLUMN dataset.test_is_made IS
    'Whether the source had no test rows and some were set aside: a seeded stratified fifth, whole groups, or the latest.';
COMMENT ON COLUMN model.source IS 'Scheme that it was read by: hf, path, gguf, wheel or states.';

-- With --max-layer the deepest layer run is what the chosen one is compared with.
CREATE OR REPLACE VIEW claims AS
WITH answer AS (SELECT run_id, pooling, norm_state, is_answer FROM audit WHERE is_default),
scored AS (SELECT run_id, max(layer) AS deepest FROM probe GROUP BY run_id),
judged AS (
    SELECT 'a' AS claim, run_id, pooling, norm_state, metric, rank_correlation AS value,
           rank_correlation_low AS low, rank_correlation_high AS high,
           verdict(rank_correlation_low, rank_correlation_high) AS verdict
    FROM curve_audit
    UNION ALL BY NAME
    SELECT 'b' AS claim, run_id, pooling, norm_state, zone[8:] AS metric, advantage AS value, advantage_low AS low,
           advantage_high AS high,
           -- A curve without inflection points has its best layer at none; one where all layers count says nothing.
           CASE WHEN best_inside IS NULL THEN 'fails' ELSE verdict(advantage_low, advantage_high) END AS verdict
    FROM zone_audit WHERE zone LIKE 'points:%'
    UNION ALL BY NAME
    SELECT 'c' AS claim, run_id, pooling, norm_state, gain_over_last AS value, gain_low AS low, gain_high AS high,
           CASE WHEN chosen_layer = coalesce(scored.deepest, pair.layers) THEN 'fails'
                ELSE verdict(gain_low, gain_high) END AS verdict
    FROM audit JOIN pair USING (run_id) LEFT JOIN scored USING (run_id) WHERE is_default
    UNION ALL BY NAME
    SELECT 'd' AS claim, run_id, pooling, norm_state, advantage AS value, advantage_low AS low,
           advantage_high AS high, verdict(advantage_low, advantage_high) AS verdict
    FROM zone_audit JOIN pair USING (run_id)
    WHERE (zone = 'early' AND lower(dataset) = 'emotion')
       OR (zone = 'middle' AND lower(dataset) IN ('ag_news', 'reuters-r8', 'reuters-r52', '20newsgroups'))
), told AS (
    SELECT judged.*, pair.model, pair.dataset, answer.is_answer
    FROM judged JOIN pair USING (run_id) JOIN answer USING (run_id, pooling, norm_state)
), everywhere AS (
    -- Claims without a metric count for each metric of the same pooling and norm state.
    SELECT 'e' AS claim, each.pooling, each.norm_state, each.metric,
           count(*) FILTER (told.verdict = 'holds') / count(*) AS value,
           CASE WHEN bool_or(told.verdict = 'fails') THEN 'fails'
                WHEN bool_and(told.verdict = 'holds') THEN 'holds' ELSE 'cannot tell' END AS verdict
    FROM (SELECT DISTINCT pooling, norm_state, metric FROM told WHERE metric IS NOT NULL) AS each
    JOIN told ON told.pooling = each.pooling AND told.norm_state = each.norm_state
        AND (told.metric = each.metric OR told.metric IS NULL)
    GROUP BY ALL
)
SELECT claim,
       CASE claim WHEN 'a' THEN 'Accuracy by layer follows the silhouette by layer.'
                  WHEN 'b' THEN 'Accuracy is highest at an inflection point of the silhouette.'
                  WHEN 'c' THEN 'The layer chosen beforehand is better than the last.'
                  WHEN 'd' THEN 'Short emotional sentences are served by very early layers, topics by middle ones.'
                  ELSE 'All of it holds whatever the model and the data set.' END AS statement,
       model, dataset, pooling, norm_state, metric, verdict, value, low, high, is_answer, run_id
FROM (SELECT * FROM told UNION ALL BY NAME SELECT * FROM everywhere)
ORDER BY claim, model, dataset, pooling, norm_state, metric, run_id;
COMMENT ON VIEW claims IS 'The paper''s claims, judged on every pair: holds, fails, or cannot tell.';
COMMENT ON COLUMN claims.claim IS 'a to e, as in docs/study.md.';
COMMENT ON COLUMN claims.statement IS 'What the paper claims.';
COMMENT ON COLUMN claims.model IS 'Last part of the model''s source; NULL for claim e, which is about all pairs.';
COMMENT ON COLUMN claims.dataset IS 'Last part of the data set''s source; NULL for claim e.';
COMMENT ON COLUMN claims.pooling IS 'How token states became one embedding, such as mean or last.';
COMMENT ON COLUMN claims.norm_state IS 'as_returned, or final_norm where every layer passed the final norm.';
COMMENT ON COLUMN claims.metric IS 'Metric of the silhouette; NULL for claims that read no silhouette.';
COMMENT ON COLUMN claims.verdict IS
    'holds: the interval lies above 0. fails: it lies below, or there is no such layer. Else: cannot tell.';
COMMENT ON COLUMN claims.value IS
    'a: rank correlation. b, d: best layer there minus best elsewhere. c: gain over last. e: share that holds.';
COMMENT ON COLUMN claims.low IS 'Lower end of its 95 % interval.';
COMMENT ON COLUMN claims.high IS 'Upper end of it.';
COMMENT ON COLUMN claims.is_answer IS 'Whether pooling and norm state are those of the run''s answer.';
COMMENT ON COLUMN claims.run_id IS 'The run; NULL for claim e.';

-- Two data sets, or models, of one last name are two.
CREATE OR REPLACE VIEW pair AS
WITH named AS (
    SELECT run_id, layers, model_id, dataset_id, short_name(model_id) AS model, short_name(dataset_id) AS dataset
    FROM run
), told AS (
    SELECT run_id, layers,
           CASE WHEN count(DISTINCT model_id) OVER (PARTITION BY model) = 1 THEN model ELSE model_id END AS model,
           CASE WHEN count(DISTINCT dataset_id) OVER (PARTITION BY dataset) = 1 THEN dataset ELSE dataset_id END
               AS dataset
    FROM named
)
SELECT run_id, model, dataset, layers,
       lower(model) IN (SELECT lower(model) FROM paper_reference)
       AND lower(dataset) IN (SELECT dataset FROM paper_reference) AS in_paper
FROM told;
COMMENT ON VIEW pair IS 'Every run under the short names of its model and its data set.';
COMMENT ON COLUMN pair.run_id IS 'The run.';
COMMENT ON COLUMN pair.model IS 'Last part of the model''s source; all of it where another has the same.';
COMMENT ON COLUMN pair.dataset IS 'Last part of the data set''s source; all of it where another has the same.';
COMMENT ON COLUMN pair.layers IS 'Blocks of the model.';
COMMENT ON COLUMN pair.in_paper IS 'Whether it is one of the paper''s own four.';
