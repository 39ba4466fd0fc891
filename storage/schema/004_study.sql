-- The paper's claims beside ours, and the rules beside each other. Accuracies, gains and regrets are fractions.

ALTER TABLE audit ADD COLUMN regret_low DOUBLE;
ALTER TABLE audit ADD COLUMN regret_high DOUBLE;
ALTER TABLE audit ADD COLUMN regret_p_value DOUBLE;
COMMENT ON COLUMN audit.regret_low IS
    'Lower end of the paired 95 % interval of the regret; NULL where audited before this was recorded.';
COMMENT ON COLUMN audit.regret_high IS 'Upper end of it.';
COMMENT ON COLUMN audit.regret_p_value IS
    'McNemar''s test of best against chosen layer; too small, as the best was found on the same rows.';

CREATE TABLE curve_audit (
    run_id VARCHAR NOT NULL,
    pooling VARCHAR NOT NULL,
    norm_state VARCHAR NOT NULL,
    metric VARCHAR NOT NULL,
    silhouette_direction VARCHAR NOT NULL CHECK (silhouette_direction IN ('up', 'down', 'flat')),
    accuracy_direction VARCHAR NOT NULL CHECK (accuracy_direction IN ('up', 'down', 'flat')),
    rank_correlation DOUBLE CHECK (rank_correlation BETWEEN -1 AND 1),
    rank_correlation_low DOUBLE CHECK (rank_correlation_low BETWEEN -1 AND 1),
    rank_correlation_high DOUBLE CHECK (rank_correlation_high BETWEEN -1 AND 1),
    PRIMARY KEY (run_id, pooling, norm_state, metric)
);
COMMENT ON TABLE curve_audit IS 'Whether the accuracy on test rows follows the silhouette on train rows, layer by layer.';
COMMENT ON COLUMN curve_audit.run_id IS 'The run.';
COMMENT ON COLUMN curve_audit.pooling IS 'How token states became one embedding: mean, mean_tail, last, first or max.';
COMMENT ON COLUMN curve_audit.norm_state IS 'as_returned, or final_norm where every layer passed the final norm.';
COMMENT ON COLUMN curve_audit.metric IS 'Metric of the silhouette.';
COMMENT ON COLUMN curve_audit.silhouette_direction IS 'Where the silhouette curve goes as a whole: up, down or flat.';
COMMENT ON COLUMN curve_audit.accuracy_direction IS 'Where the accuracy curve goes as a whole: up, down or flat.';
COMMENT ON COLUMN curve_audit.rank_correlation IS
    'Spearman''s, of silhouette and accuracy over the layers, -1 to 1; NULL for a constant curve.';
COMMENT ON COLUMN curve_audit.rank_correlation_low IS 'Lower end of its 95 % interval, both sets of rows drawn anew.';
COMMENT ON COLUMN curve_audit.rank_correlation_high IS 'Upper end of it.';

CREATE TABLE zone_audit (
    run_id VARCHAR NOT NULL,
    pooling VARCHAR NOT NULL,
    norm_state VARCHAR NOT NULL,
    zone VARCHAR NOT NULL,
    layer_share DOUBLE NOT NULL CHECK (layer_share BETWEEN 0 AND 1),
    best_inside INTEGER CHECK (best_inside >= 0),
    best_outside INTEGER CHECK (best_outside >= 0),
    advantage DOUBLE CHECK (advantage BETWEEN -1 AND 1),
    advantage_low DOUBLE CHECK (advantage_low BETWEEN -1 AND 1),
    advantage_high DOUBLE CHECK (advantage_high BETWEEN -1 AND 1),
    p_value DOUBLE CHECK (p_value BETWEEN 0 AND 1),
    PRIMARY KEY (run_id, pooling, norm_state, zone)
);
COMMENT ON TABLE zone_audit IS
    'The best layer of a part of the model against the best of the rest, on the same test rows that found them.';
COMMENT ON COLUMN zone_audit.run_id IS 'The run.';
COMMENT ON COLUMN zone_audit.pooling IS 'How token states became one embedding: mean, mean_tail, last, first or max.';
COMMENT ON COLUMN zone_audit.norm_state IS 'as_returned, or final_norm where every layer passed the final norm.';
COMMENT ON COLUMN zone_audit.zone IS
    'early (depth up to 1/4), middle (1/4 to 3/4), late, or points:METRIC (within 1 layer of an inflection point).';
COMMENT ON COLUMN zone_audit.layer_share IS
    'Share of all layers that lie in the zone: how often a layer drawn blindly would.';
COMMENT ON COLUMN zone_audit.best_inside IS 'Layer of the highest test accuracy in the zone; NULL for an empty zone.';
COMMENT ON COLUMN zone_audit.best_outside IS 'The same of all other layers; NULL where there are none.';
COMMENT ON COLUMN zone_audit.advantage IS 'Accuracy of best_inside minus that of best_outside.';
COMMENT ON COLUMN zone_audit.advantage_low IS 'Lower end of its paired 95 % interval.';
COMMENT ON COLUMN zone_audit.advantage_high IS 'Upper end of it.';
COMMENT ON COLUMN zone_audit.p_value IS 'McNemar''s test of the two.';

CREATE TABLE score_audit (
    run_id VARCHAR NOT NULL,
    pooling VARCHAR NOT NULL,
    norm_state VARCHAR NOT NULL,
    score VARCHAR NOT NULL,
    layer INTEGER NOT NULL CHECK (layer >= 0),
    regret DOUBLE NOT NULL CHECK (regret BETWEEN 0 AND 1),
    split_regret DOUBLE NOT NULL CHECK (split_regret BETWEEN -1 AND 1),
    gain_over_last DOUBLE NOT NULL CHECK (gain_over_last BETWEEN -1 AND 1),
    p_value DOUBLE NOT NULL CHECK (p_value BETWEEN 0 AND 1),
    rank_correlation DOUBLE CHECK (rank_correlation BETWEEN -1 AND 1),
    PRIMARY KEY (run_id, pooling, norm_state, score)
);
COMMENT ON TABLE score_audit IS 'What the layer with the highest value of one train-only score is worth on test rows.';
COMMENT ON COLUMN score_audit.run_id IS 'The run.';
COMMENT ON COLUMN score_audit.pooling IS 'How token states became one embedding: mean, mean_tail, last, first or max.';
COMMENT ON COLUMN score_audit.norm_state IS 'as_returned, or final_norm where every layer passed the final norm.';
COMMENT ON COLUMN score_audit.score IS 'silhouette:METRIC or criterion:NAME.';
COMMENT ON COLUMN score_audit.layer IS 'Where the score is highest, the shallowest of equals.';
COMMENT ON COLUMN score_audit.regret IS 'Best minus this layer''s accuracy.';
COMMENT ON COLUMN score_audit.split_regret IS
    'Regret with the best layer found on one half of the test rows and measured on the other, both ways.';
COMMENT ON COLUMN score_audit.gain_over_last IS 'This minus last-layer accuracy.';
COMMENT ON COLUMN score_audit.p_value IS 'McNemar''s test of this against the last layer.';
COMMENT ON COLUMN score_audit.rank_correlation IS
    'Spearman''s, of the score and the accuracy over the layers, -1 to 1; NULL for a constant curve.';

CREATE TABLE paper_reference (
    model VARCHAR NOT NULL,
    dataset VARCHAR NOT NULL,
    quantity VARCHAR NOT NULL CHECK (
        quantity IN ('silhouette_trend', 'accuracy_trend', 'inflection_point', 'best_accuracy')
    ),
    layer INTEGER CHECK (layer >= 0),
    value DOUBLE,
    source VARCHAR NOT NULL CHECK (source IN ('table_1', 'table_2'))
);
COMMENT ON TABLE paper_reference IS
    'What Gwak and Jung print. They do not say whether layer 1 is the embedding output: allow for one layer.';
COMMENT ON COLUMN paper_reference.model IS 'As the paper names it.';
COMMENT ON COLUMN paper_reference.dataset IS 'ag_news or emotion.';
COMMENT ON COLUMN paper_reference.quantity IS 'silhouette_trend, accuracy_trend, inflection_point or best_accuracy.';
COMMENT ON COLUMN paper_reference.layer IS 'Where it was measured; NULL for a trend.';
COMMENT ON COLUMN paper_reference.value IS
    'Accuracy, 0 to 1, NULL where not printed; a trend: -1 falling, 0 flat, NULL where the print is lost.';
COMMENT ON COLUMN paper_reference.source IS 'table_1 or table_2 of the paper.';

INSERT INTO paper_reference VALUES
    ('Qwen3-1.7B', 'emotion', 'silhouette_trend', NULL, -1, 'table_1'),
    ('Qwen3-1.7B', 'emotion', 'accuracy_trend', NULL, -1, 'table_1'),
    ('Qwen3-1.7B', 'emotion', 'inflection_point', 1, 0.7900, 'table_1'),
    ('Qwen3-1.7B', 'emotion', 'inflection_point', 24, NULL, 'table_1'),
    ('Qwen3-1.7B', 'ag_news', 'silhouette_trend', NULL, 0, 'table_1'),
    ('Qwen3-1.7B', 'ag_news', 'accuracy_trend', NULL, -1, 'table_1'),
    ('Qwen3-1.7B', 'ag_news', 'inflection_point', 2, NULL, 'table_1'),
    ('Qwen3-1.7B', 'ag_news', 'inflection_point', 10, 0.9132, 'table_1'),
    ('Qwen3-1.7B', 'ag_news', 'inflection_point', 22, NULL, 'table_1'),
    ('LLaMA-3.2-1B', 'emotion', 'silhouette_trend', NULL, -1, 'table_1'),
    ('LLaMA-3.2-1B', 'emotion', 'accuracy_trend', NULL, -1, 'table_1'),
    ('LLaMA-3.2-1B', 'emotion', 'inflection_point', 1, 0.7560, 'table_1'),
    ('LLaMA-3.2-1B', 'emotion', 'inflection_point', 5, NULL, 'table_1'),
    ('LLaMA-3.2-1B', 'ag_news', 'silhouette_trend', NULL, NULL, 'table_1'),
    ('LLaMA-3.2-1B', 'ag_news', 'accuracy_trend', NULL, NULL, 'table_1'),
    ('LLaMA-3.2-1B', 'ag_news', 'inflection_point', 12, 0.9289, 'table_1'),
    ('LLaMA-3.2-1B', 'ag_news', 'inflection_point', 14, NULL, 'table_1'),
    ('Qwen3-1.7B', 'emotion', 'best_accuracy', 1, 0.7900, 'table_2'),
    ('Qwen3-1.7B', 'ag_news', 'best_accuracy', 10, 0.9132, 'table_2'),
    ('LLaMA-3.2-1B', 'emotion', 'best_accuracy', 1, 0.7560, 'table_2'),
    ('LLaMA-3.2-1B', 'ag_news', 'best_accuracy', 13, 0.9296, 'table_2');

-- The last part of a source: hf:Qwen/Qwen3-1.7B@main is Qwen3-1.7B, gguf:models/qwen.gguf is qwen.
CREATE MACRO short_name(spec) AS regexp_replace(
    regexp_extract(spec, '[^/:]+$'), '(@.*|\.(gguf|parquet|csv|jsonl|tsv|tab))$', ''
);

CREATE VIEW pair AS
SELECT run_id, short_name(model_id) AS model, short_name(dataset_id) AS dataset, layers,
       lower(short_name(model_id)) IN (SELECT lower(model) FROM paper_reference)
       AND lower(short_name(dataset_id)) IN (SELECT dataset FROM paper_reference) AS in_paper
FROM run;
COMMENT ON VIEW pair IS 'Every run under the short names of its model and its data set.';
COMMENT ON COLUMN pair.run_id IS 'The run.';
COMMENT ON COLUMN pair.model IS 'Last part of the model''s source.';
COMMENT ON COLUMN pair.dataset IS 'Last part of the data set''s source.';
COMMENT ON COLUMN pair.layers IS 'Blocks of the model.';
COMMENT ON COLUMN pair.in_paper IS 'Whether it is one of the paper''s own four.';

CREATE VIEW table_1 AS
WITH printed AS (
    SELECT lower(model) AS model, dataset,
           max(value) FILTER (quantity = 'silhouette_trend') AS silhouette_trend,
           max(value) FILTER (quantity = 'accuracy_trend') AS accuracy_trend,
           string_agg(layer || coalesce(' (' || format('{:.4f}', value) || ')', ''), ', ' ORDER BY layer)
               FILTER (quantity = 'inflection_point') AS points
    FROM paper_reference WHERE source = 'table_1' GROUP BY ALL
), found AS (
    SELECT point.run_id, point.pooling, point.norm_state, point.metric,
           string_agg(point.layer || ' (' || format('{:.4f}', probe.accuracy) || ')', ', ' ORDER BY point.layer)
               AS points,
           arg_max(point.layer, probe.accuracy) AS best_point, max(probe.accuracy) AS best_accuracy
    FROM inflection_point AS point
    JOIN probe USING (run_id, pooling, norm_state, layer)
    GROUP BY ALL
)
SELECT pair.model, pair.dataset, curve.pooling, curve.norm_state, curve.metric,
       curve.silhouette_direction AS silhouette_trend, curve.accuracy_direction AS accuracy_trend,
       coalesce(found.points, '') AS inflection_points, found.best_point, found.best_accuracy,
       CASE printed.silhouette_trend WHEN -1 THEN 'down' WHEN 0 THEN 'flat' END AS paper_silhouette_trend,
       CASE printed.accuracy_trend WHEN -1 THEN 'down' WHEN 0 THEN 'flat' END AS paper_accuracy_trend,
       printed.points AS paper_inflection_points, audit.is_answer, pair.run_id
FROM curve_audit AS curve
JOIN pair USING (run_id)
JOIN audit USING (run_id, pooling, norm_state)
LEFT JOIN found USING (run_id, pooling, norm_state, metric)
LEFT JOIN printed ON printed.model = lower(pair.model) AND printed.dataset = lower(pair.dataset)
WHERE audit.is_default
ORDER BY pair.model, pair.dataset, curve.pooling, curve.norm_state, curve.metric, pair.run_id;
COMMENT ON VIEW table_1 IS
    'Table 1 of the paper for every pair, pooling, norm state and metric; its own figures beside its own four pairs.';
COMMENT ON COLUMN table_1.model IS 'Last part of the model''s source.';
COMMENT ON COLUMN table_1.dataset IS 'Last part of the data set''s source.';
COMMENT ON COLUMN table_1.pooling IS 'How token states became one embedding: mean, mean_tail, last, first or max.';
COMMENT ON COLUMN table_1.norm_state IS 'as_returned, or final_norm where every layer passed the final norm.';
COMMENT ON COLUMN table_1.metric IS 'Metric of the silhouette.';
COMMENT ON COLUMN table_1.silhouette_trend IS 'Where the silhouette goes as a whole: up, down or flat.';
COMMENT ON COLUMN table_1.accuracy_trend IS 'Where the accuracy goes as a whole: up, down or flat.';
COMMENT ON COLUMN table_1.inflection_points IS 'The silhouette''s inflection points, each with its test accuracy.';
COMMENT ON COLUMN table_1.best_point IS 'The inflection point with the highest test accuracy.';
COMMENT ON COLUMN table_1.best_accuracy IS 'Its test accuracy, 0 to 1.';
COMMENT ON COLUMN table_1.paper_silhouette_trend IS 'What the paper prints; NULL for other pairs.';
COMMENT ON COLUMN table_1.paper_accuracy_trend IS 'What the paper prints; NULL for other pairs.';
COMMENT ON COLUMN table_1.paper_inflection_points IS 'What the paper prints; NULL for other pairs.';
COMMENT ON COLUMN table_1.is_answer IS 'Whether pooling and norm state are those of the run''s answer.';
COMMENT ON COLUMN table_1.run_id IS 'The run.';

CREATE VIEW table_2 AS
SELECT pair.model, pair.dataset, audit.pooling, audit.norm_state, audit.best_accuracy, audit.best_layer,
       audit.chosen_accuracy, audit.chosen_layer, audit.last_accuracy, pair.layers AS last_layer,
       printed.value AS paper_accuracy, printed.layer AS paper_layer,
       abs(audit.best_layer - printed.layer) <= 1 AS same_layer, audit.is_answer, pair.run_id
FROM audit
JOIN pair USING (run_id)
LEFT JOIN paper_reference AS printed
    ON printed.source = 'table_2' AND lower(printed.model) = lower(pair.model)
    AND printed.dataset = lower(pair.dataset)
WHERE audit.is_default
ORDER BY pair.model, pair.dataset, audit.pooling, audit.norm_state, pair.run_id;
COMMENT ON VIEW table_2 IS
    'Table 2 of the paper for every pair, pooling and norm state; its own figures beside its own four pairs.';
COMMENT ON COLUMN table_2.model IS 'Last part of the model''s source.';
COMMENT ON COLUMN table_2.dataset IS 'Last part of the data set''s source.';
COMMENT ON COLUMN table_2.pooling IS 'How token states became one embedding: mean, mean_tail, last, first or max.';
COMMENT ON COLUMN table_2.norm_state IS 'as_returned, or final_norm where every layer passed the final norm.';
COMMENT ON COLUMN table_2.best_accuracy IS 'Highest test accuracy, 0 to 1.';
COMMENT ON COLUMN table_2.best_layer IS 'Its layer, the shallowest of equals.';
COMMENT ON COLUMN table_2.chosen_accuracy IS 'Test accuracy of the layer that the default rule chose.';
COMMENT ON COLUMN table_2.chosen_layer IS 'That layer.';
COMMENT ON COLUMN table_2.last_accuracy IS 'Test accuracy of the last layer.';
COMMENT ON COLUMN table_2.last_layer IS 'Its number.';
COMMENT ON COLUMN table_2.paper_accuracy IS 'What the paper prints; NULL for other pairs.';
COMMENT ON COLUMN table_2.paper_layer IS 'What the paper prints; NULL for other pairs.';
COMMENT ON COLUMN table_2.same_layer IS 'Whether ours lies within one layer of the paper''s; NULL for other pairs.';
COMMENT ON COLUMN table_2.is_answer IS 'Whether pooling and norm state are those of the run''s answer.';
COMMENT ON COLUMN table_2.run_id IS 'The run.';

-- A claim holds where the interval of its quantity lies above 0, fails where it lies below, else nobody can tell.
CREATE MACRO verdict(low, high) AS CASE WHEN low > 0 THEN 'holds' WHEN high < 0 THEN 'fails' ELSE 'cannot tell' END;

CREATE VIEW claims AS
WITH answer AS (SELECT run_id, pooling, norm_state, is_answer FROM audit WHERE is_default),
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
           CASE WHEN chosen_layer = pair.layers THEN 'fails' ELSE verdict(gain_low, gain_high) END AS verdict
    FROM audit JOIN pair USING (run_id) WHERE is_default
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
COMMENT ON COLUMN claims.pooling IS 'How token states became one embedding: mean, mean_tail, last, first or max.';
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

CREATE VIEW criterion_quality AS
WITH tried AS (
    SELECT 'rule' AS kind, rule AS name, run_id, chosen_layer AS layer, regret, split_regret, gain_over_last,
           p_value, NULL::DOUBLE AS rank_correlation
    FROM audit
    UNION ALL BY NAME
    SELECT 'maximum' AS kind, score AS name, run_id, layer, regret, split_regret, gain_over_last, p_value,
           rank_correlation
    FROM score_audit
), ranked AS (
    SELECT *, row_number() OVER (PARTITION BY kind, name ORDER BY p_value) AS place,
           count(*) OVER (PARTITION BY kind, name) AS curves
    FROM tried
), held AS (
    -- Holm 1979: a p counts as the largest of those up to it, each times the number of tests still open.
    SELECT *, max((curves - place + 1) * p_value) OVER (PARTITION BY kind, name ORDER BY place) AS holm
    FROM ranked
)
SELECT kind, name, curves, avg(split_regret) AS mean_split_regret, max(split_regret) AS worst_split_regret,
       avg(regret) AS mean_regret, max(regret) AS worst_regret, avg(gain_over_last) AS mean_gain_over_last,
       count(*) FILTER (holm < 0.05 AND gain_over_last > 0) AS better_than_last,
       count(*) FILTER (holm < 0.05 AND gain_over_last < 0) AS worse_than_last,
       avg(rank_correlation) AS mean_rank_correlation, avg(layer / pair.layers) AS mean_depth
FROM held JOIN pair USING (run_id)
GROUP BY ALL
ORDER BY mean_split_regret, kind, name;
COMMENT ON VIEW criterion_quality IS
    'Every rule, and the maximum of every train-only score, over all curves (pair x pooling x norm state).';
COMMENT ON COLUMN criterion_quality.kind IS 'rule, or maximum: the layer where a score is highest.';
COMMENT ON COLUMN criterion_quality.name IS 'Name of the rule, or silhouette:METRIC or criterion:NAME.';
COMMENT ON COLUMN criterion_quality.curves IS 'Number of curves it was tried on.';
COMMENT ON COLUMN criterion_quality.mean_split_regret IS
    'Mean regret, the best layer found on one half of the test rows and measured on the other; may be negative.';
COMMENT ON COLUMN criterion_quality.worst_split_regret IS 'The highest of them.';
COMMENT ON COLUMN criterion_quality.mean_regret IS 'Mean regret against the best layer on all test rows.';
COMMENT ON COLUMN criterion_quality.worst_regret IS 'The highest of them.';
COMMENT ON COLUMN criterion_quality.mean_gain_over_last IS 'Mean of chosen minus last-layer accuracy.';
COMMENT ON COLUMN criterion_quality.better_than_last IS
    'Curves where it is significantly better than the last layer (McNemar, Holm over the curves, 5 %).';
COMMENT ON COLUMN criterion_quality.worse_than_last IS 'Curves where it is significantly worse.';
COMMENT ON COLUMN criterion_quality.mean_rank_correlation IS
    'Mean of Spearman''s rank correlation of score and accuracy over the layers; NULL for a rule.';
COMMENT ON COLUMN criterion_quality.mean_depth IS 'Mean depth of the layers it picks, 0 to 1.';

CREATE VIEW rule_left_out AS
WITH curve AS (
    SELECT audit.*, pair.model, pair.dataset FROM audit JOIN pair USING (run_id)
), fold AS (
    SELECT DISTINCT 'data set' AS left_out_by, dataset AS left_out FROM curve
    UNION ALL
    SELECT DISTINCT 'model', model FROM curve
), fitted AS (
    SELECT fold.left_out_by, fold.left_out, curve.rule, avg(curve.split_regret) AS mean_regret,
           max(curve.split_regret) > 0.015 AS goes_wrong
    FROM fold
    JOIN curve ON fold.left_out <> CASE fold.left_out_by WHEN 'model' THEN curve.model ELSE curve.dataset END
    GROUP BY ALL
), best AS (
    SELECT left_out_by, left_out, first(rule ORDER BY goes_wrong, mean_regret, rule) AS rule
    FROM fitted GROUP BY ALL
)
SELECT best.left_out_by, best.left_out, best.rule, count(*) AS curves,
       avg(curve.split_regret) AS mean_split_regret, max(curve.split_regret) AS worst_split_regret,
       avg(curve.gain_over_last) AS mean_gain_over_last
FROM best
JOIN curve ON curve.rule = best.rule
    AND best.left_out = CASE best.left_out_by WHEN 'model' THEN curve.model ELSE curve.dataset END
GROUP BY ALL
ORDER BY best.left_out_by, best.left_out;
COMMENT ON VIEW rule_left_out IS
    'The rule that is best on all other data sets (models), measured on the one that was left out.';
COMMENT ON COLUMN rule_left_out.left_out_by IS 'data set or model.';
COMMENT ON COLUMN rule_left_out.left_out IS 'Which one.';
COMMENT ON COLUMN rule_left_out.rule IS
    'Least mean split regret on the rest, of the rules whose worst there is at most 0.015, if any.';
COMMENT ON COLUMN rule_left_out.curves IS 'Curves of what was left out.';
COMMENT ON COLUMN rule_left_out.mean_split_regret IS 'Mean split regret on them.';
COMMENT ON COLUMN rule_left_out.worst_split_regret IS 'The highest of them.';
COMMENT ON COLUMN rule_left_out.mean_gain_over_last IS 'Mean of chosen minus last-layer accuracy on them.';
