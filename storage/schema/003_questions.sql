-- What people ask, as views; what a row may not be, where a CHECK cannot say it; and a comment on every table, view
-- and column, which `DESCRIBE`, `duckdb_columns()` and SQL editors show.

-- Silhouettes were the only scores that did not say what they cost. NULL: scored before this was recorded.
ALTER TABLE silhouette ADD COLUMN seconds DOUBLE;

-- How sure is the answer of each run?
CREATE VIEW certainty AS
SELECT run.model_id, run.dataset_id, choice.pooling, choice.norm_state, choice.layer AS chosen_layer,
       choice.confidence, audit.gain_over_last, audit.gain_low, audit.gain_high, audit.p_value,
       CASE WHEN choice.layer = run.layers THEN 'is the last layer'
            WHEN audit.gain_low > 0 THEN 'better than the last layer'
            WHEN audit.gain_high < 0 THEN 'worse than the last layer'
            ELSE 'level with the last layer, within noise' END AS verdict,
       probe.n_train, probe.n_test, probe.majority_accuracy, embedding_set.truncated_share, dataset.test_is_made,
       run.run_id
FROM layer_choice AS choice
JOIN run USING (run_id)
JOIN audit USING (run_id, pooling, norm_state, rule)
LEFT JOIN probe ON probe.run_id = choice.run_id AND probe.pooling = choice.pooling
    AND probe.norm_state = choice.norm_state AND probe.layer = choice.layer
LEFT JOIN embedding_set USING (embedding_set_id)
LEFT JOIN dataset ON dataset.id = run.dataset_id AND dataset.fingerprint = run.dataset_fingerprint
WHERE choice.is_answer
ORDER BY choice.confidence DESC, run.run_id;

-- What does pooling change? The default rule's choice for every pooling and norm state of a run.
CREATE VIEW pooling_comparison AS
SELECT run.model_id, run.dataset_id, choice.pooling, choice.norm_state, choice.layer AS chosen_layer,
       choice.score AS train_score, audit.chosen_accuracy, audit.last_accuracy, audit.gain_over_last,
       audit.chosen_accuracy - answer.chosen_accuracy AS accuracy_against_answer, choice.is_answer, run.run_id
FROM layer_choice AS choice
JOIN run USING (run_id)
JOIN audit USING (run_id, pooling, norm_state, rule)
LEFT JOIN audit AS answer ON answer.run_id = run.run_id AND answer.is_answer
WHERE choice.is_default
ORDER BY run.run_id, choice.score DESC, choice.layer;

-- How do models compare at equal depth? The layer nearest to each tenth of a model's depth, as measured.
CREATE VIEW equal_depth AS
SELECT run.model_id, run.dataset_id, probe.pooling, probe.norm_state, tenth / 10 AS depth, probe.layer,
       run.layers, probe.accuracy, probe.accuracy_low, probe.accuracy_high, probe.macro_f1, run.run_id
FROM run
CROSS JOIN range(11) AS depths(tenth)
JOIN probe ON probe.run_id = run.run_id AND probe.layer = CAST(round(run.layers * tenth / 10) AS INTEGER)
ORDER BY run.dataset_id, probe.pooling, probe.norm_state, depth, probe.accuracy DESC, run.run_id;

-- What did it cost? Scores of different layers run side by side, so their sums may exceed a run's seconds.
CREATE VIEW cost AS
SELECT run.model_id, run.dataset_id, embedding_set.rows, embedding_set.tokens,
       embedding_set.seconds AS embedding_seconds,
       embedding_set.tokens / nullif(embedding_set.seconds, 0) AS tokens_per_second,
       (SELECT sum(seconds) FROM silhouette WHERE silhouette.run_id = run.run_id) AS silhouette_seconds,
       (SELECT sum(seconds) FROM criterion WHERE criterion.run_id = run.run_id) AS criterion_seconds,
       (SELECT sum(seconds) FROM probe WHERE probe.run_id = run.run_id) AS probe_seconds,
       executed.first_seconds, executed.latest_seconds, executed.executions, executed.device, run.run_id
FROM run
LEFT JOIN embedding_set USING (embedding_set_id)
LEFT JOIN (
    SELECT run_id, count(*) AS executions, arg_min(seconds, finished_at) AS first_seconds,
           arg_max(seconds, finished_at) AS latest_seconds, arg_max(device, finished_at) AS device
    FROM execution GROUP BY run_id
) AS executed USING (run_id)
ORDER BY executed.first_seconds DESC, run.run_id;

-- What changed since last night's run? A run beside the one before it that was asked for the same parameters.
CREATE VIEW changes AS
WITH told AS (
    SELECT run.*, latest_run.finished_at, choice.pooling, choice.norm_state, choice.layer, audit.chosen_accuracy
    FROM run
    JOIN latest_run USING (run_id)
    LEFT JOIN layer_choice AS choice ON choice.run_id = run.run_id AND choice.is_answer
    LEFT JOIN audit ON audit.run_id = run.run_id AND audit.is_answer
), paired AS (
    SELECT *, lag(run_id) OVER night AS previous_run_id, lag(finished_at) OVER night AS previous_finished_at,
           lag(layer) OVER night AS previous_layer, lag(chosen_accuracy) OVER night AS previous_accuracy,
           lag(pooling) OVER night AS previous_pooling, lag(norm_state) OVER night AS previous_norm_state,
           lag(dataset_fingerprint) OVER night AS previous_fingerprint,
           lag(model_revision) OVER night AS previous_revision, lag(code_version) OVER night AS previous_code,
           lag(dtype) OVER night AS previous_dtype, lag(device_kind) OVER night AS previous_device,
           lag(versions) OVER night AS previous_versions
    FROM told
    WINDOW night AS (PARTITION BY CAST(parameters AS VARCHAR) ORDER BY finished_at, run_id)
)
SELECT model_id, dataset_id, run_id, previous_run_id, finished_at, previous_finished_at,
       list_filter([
           CASE WHEN dataset_fingerprint <> previous_fingerprint THEN 'data set' END,
           CASE WHEN model_revision <> previous_revision THEN 'model revision' END,
           CASE WHEN code_version <> previous_code THEN 'code ' || previous_code || ' to ' || code_version END,
           CASE WHEN dtype <> previous_dtype THEN 'dtype ' || previous_dtype || ' to ' || dtype END,
           CASE WHEN device_kind <> previous_device THEN 'device ' || previous_device || ' to ' || device_kind END
       ], lambda each: each IS NOT NULL) || list_transform(
           list_filter(json_keys(versions), lambda name: (versions ->> name) <> (previous_versions ->> name)),
           lambda name: name || ' ' || (previous_versions ->> name) || ' to ' || (versions ->> name)
       ) AS changed,
       previous_pooling || ' ' || previous_norm_state AS previous_curve, pooling || ' ' || norm_state AS curve,
       previous_layer, layer, previous_accuracy, chosen_accuracy AS accuracy,
       chosen_accuracy - previous_accuracy AS difference
FROM paired
WHERE previous_run_id IS NOT NULL
ORDER BY finished_at DESC, run_id;

-- Rows that cannot be, which a CHECK cannot see: it reads one row of one table, and its table cannot get new ones.
-- A merge refuses a run that has any; what an older version let in shows here.
CREATE VIEW impossible_row AS
WITH layered AS (
    SELECT run_id, 'silhouette' AS table_name, layer FROM silhouette
    UNION SELECT run_id, 'silhouette_by_class', layer FROM silhouette_by_class
    UNION SELECT run_id, 'probe', layer FROM probe
    UNION SELECT run_id, 'criterion', layer FROM criterion
    UNION SELECT run_id, 'inflection_point', layer FROM inflection_point
    UNION SELECT run_id, 'trend', to_layer FROM trend
    UNION SELECT run_id, 'layer_choice', layer FROM layer_choice
    UNION SELECT run_id, 'audit', greatest(chosen_layer, best_layer) FROM audit
)
SELECT run_id, table_name, layer, 'the model has ' || layers || ' layers' AS why
FROM layered JOIN run USING (run_id) WHERE layer > layers
UNION ALL
SELECT run_id, 'silhouette', layer, 'seconds are below 0' FROM silhouette WHERE seconds < 0
UNION ALL
SELECT run_id, 'probe', layer, 'accuracy lies outside its interval' FROM probe
WHERE accuracy NOT BETWEEN accuracy_low - 1e-9 AND accuracy_high + 1e-9
UNION ALL
SELECT run_id, 'audit', chosen_layer, 'regret is not best minus chosen accuracy' FROM audit
WHERE abs(best_accuracy - chosen_accuracy - regret) > 1e-9
UNION ALL
SELECT run_id, 'audit', chosen_layer, 'gain over last is not chosen minus last accuracy' FROM audit
WHERE abs(chosen_accuracy - last_accuracy - gain_over_last) > 1e-9
UNION ALL
SELECT run_id, 'audit', chosen_layer, 'audits another layer than rule ' || rule || ' chose' FROM audit
JOIN layer_choice USING (run_id, pooling, norm_state, rule) WHERE chosen_layer <> layer
UNION ALL
SELECT run_id, 'layer_choice', NULL, 'has ' || count_if(is_answer) || ' answers, not one' FROM layer_choice
GROUP BY run_id HAVING count_if(is_answer) <> 1;

COMMENT ON TABLE schema_migration IS 'Which migrations this file has; written when it is opened for a merge.';
COMMENT ON COLUMN schema_migration.number IS 'Number of the migration, 1 upwards.';
COMMENT ON COLUMN schema_migration.name IS 'Its name.';
COMMENT ON COLUMN schema_migration.applied_at IS 'When this file got it.';

COMMENT ON TABLE run IS 'A sweep: one model × one data set, with one set of parameters. A repeat is the same run.';
COMMENT ON COLUMN run.run_id IS
    'First 16 hex digits of a SHA-256 over parameters, embedding set and scoring code: a content id.';
COMMENT ON COLUMN run.model_id IS 'The model as it was asked for, such as hf:OWNER/NAME or wheel:NAME.';
COMMENT ON COLUMN run.dataset_id IS 'The data set as it was asked for.';
COMMENT ON COLUMN run.embedding_set_id IS 'The embeddings that its scores were made from.';
COMMENT ON COLUMN run.parameters IS 'All parameters that can change a number, as JSON with sorted keys.';
COMMENT ON COLUMN run.code_version IS 'Versions of layerscout and of its scoring code.';
COMMENT ON COLUMN run.layers IS 'n: blocks of the model; its layers are 0 (the embedding output) to n.';
COMMENT ON COLUMN run.model_revision IS 'Revision or content hash of the model that was read.';
COMMENT ON COLUMN run.dataset_fingerprint IS 'Hash of the cleaned rows and class names.';
COMMENT ON COLUMN run.dtype IS 'Number type the model computed in.';
COMMENT ON COLUMN run.device_kind IS 'Kind of device the model ran on: cpu, cuda ….';
COMMENT ON COLUMN run.versions IS 'Versions of the libraries that can change a number, as a JSON object.';

COMMENT ON TABLE execution IS 'One time that a run was carried out. A repeat adds a row here and replaces all others.';
COMMENT ON COLUMN execution.flow_run_id IS 'Id of the Prefect flow run.';
COMMENT ON COLUMN execution.run_id IS 'The run that was carried out.';
COMMENT ON COLUMN execution.status IS 'completed, failed or cancelled.';
COMMENT ON COLUMN execution.started_at IS 'Start, with time zone.';
COMMENT ON COLUMN execution.finished_at IS 'End, with time zone.';
COMMENT ON COLUMN execution.seconds IS 'Wall time from start to end, in seconds.';
COMMENT ON COLUMN execution.device IS 'The torch device.';
COMMENT ON COLUMN execution.shards_computed IS 'Shards of embeddings that it computed.';
COMMENT ON COLUMN execution.shards_reused IS 'Shards that lay there already.';

COMMENT ON TABLE model IS 'A model that was read.';
COMMENT ON COLUMN model.id IS 'The model as it was asked for.';
COMMENT ON COLUMN model.source IS 'Kind of source: hf, path, gguf or wheel.';
COMMENT ON COLUMN model.revision IS 'Revision or content hash.';
COMMENT ON COLUMN model.family IS 'Architecture family, such as llama or bert.';
COMMENT ON COLUMN model.layers IS 'Number of blocks.';
COMMENT ON COLUMN model.hidden_size IS 'Dimensions of a token state.';

COMMENT ON TABLE dataset IS 'A data set that was read, by content.';
COMMENT ON COLUMN dataset.id IS 'The data set as it was asked for.';
COMMENT ON COLUMN dataset.source IS 'Kind of source: hf, path or wheel.';
COMMENT ON COLUMN dataset.fingerprint IS 'Hash of the cleaned rows and class names.';
COMMENT ON COLUMN dataset.revision IS 'Revision or content hash of the source.';
COMMENT ON COLUMN dataset.classes IS 'Class names; a label is an index into them, from 0.';
COMMENT ON COLUMN dataset.text_column IS 'Column the texts came from.';
COMMENT ON COLUMN dataset.label_column IS 'Column the labels came from.';
COMMENT ON COLUMN dataset.train_rows IS 'Rows that scoring and choosing see.';
COMMENT ON COLUMN dataset.test_rows IS 'Rows that the probe''s accuracy and the audit are measured on.';
COMMENT ON COLUMN dataset.test_is_made IS
    'Whether the test split was taken from train, seeded and stratified, for want of one.';

COMMENT ON TABLE embedding_set IS 'Embeddings of one data set by one model: what was read, and what computing them cost.';
COMMENT ON COLUMN embedding_set.embedding_set_id IS 'Hash over everything that changes a number in them.';
COMMENT ON COLUMN embedding_set.dataset_fingerprint IS 'The data set they are of.';
COMMENT ON COLUMN embedding_set.max_length IS 'Tokens of a text that were read; the rest was cut.';
COMMENT ON COLUMN embedding_set.token_budget IS 'Tokens of one batch.';
COMMENT ON COLUMN embedding_set.rows IS 'Texts.';
COMMENT ON COLUMN embedding_set.tokens IS 'Tokens that were read, without padding.';
COMMENT ON COLUMN embedding_set.truncated_share IS 'Share of the texts that were cut, 0 to 1.';
COMMENT ON COLUMN embedding_set.shards IS 'Files.';
COMMENT ON COLUMN embedding_set.seconds IS 'Seconds of all shards together, each counted once, whoever computed it.';

COMMENT ON TABLE silhouette IS 'Mean silhouette of the gold labels on the train rows of one layer.';
COMMENT ON COLUMN silhouette.run_id IS 'The run.';
COMMENT ON COLUMN silhouette.pooling IS 'How token states became one embedding: mean, mean_tail, last, first or max.';
COMMENT ON COLUMN silhouette.norm_state IS 'as_returned, or final_norm where every layer passed the final norm.';
COMMENT ON COLUMN silhouette.layer IS '0 (the embedding output) to n.';
COMMENT ON COLUMN silhouette.metric IS 'Distance: euclidean, sqeuclidean or cosine.';
COMMENT ON COLUMN silhouette.space IS 'raw, or the transformation the embeddings went through first.';
COMMENT ON COLUMN silhouette.precision IS 'exact, or how it was sampled.';
COMMENT ON COLUMN silhouette.mean IS
    'Mean silhouette, -1 to 1: above 0, texts lie nearer to their own class than to any other.';
COMMENT ON COLUMN silhouette.standard_error IS 'Standard error of the mean.';
COMMENT ON COLUMN silhouette.n IS 'Train rows.';
COMMENT ON COLUMN silhouette.seconds IS 'Seconds it took; NULL for rows from before this was recorded.';

COMMENT ON TABLE silhouette_by_class IS 'Mean silhouette of the train rows of one class in one layer.';
COMMENT ON COLUMN silhouette_by_class.run_id IS 'The run.';
COMMENT ON COLUMN silhouette_by_class.pooling IS
    'How token states became one embedding: mean, mean_tail, last, first or max.';
COMMENT ON COLUMN silhouette_by_class.norm_state IS
    'as_returned, or final_norm where every layer passed the final norm.';
COMMENT ON COLUMN silhouette_by_class.layer IS '0 (the embedding output) to n.';
COMMENT ON COLUMN silhouette_by_class.metric IS 'Distance: euclidean, sqeuclidean or cosine.';
COMMENT ON COLUMN silhouette_by_class.space IS 'raw, or the transformation the embeddings went through first.';
COMMENT ON COLUMN silhouette_by_class.label IS 'Name of the class.';
COMMENT ON COLUMN silhouette_by_class.mean IS 'Mean silhouette of its rows, -1 to 1.';
COMMENT ON COLUMN silhouette_by_class.n IS 'Its train rows.';

COMMENT ON TABLE probe IS 'A regularised linear probe of one layer: fitted on train rows, measured on test rows.';
COMMENT ON COLUMN probe.run_id IS 'The run.';
COMMENT ON COLUMN probe.pooling IS 'How token states became one embedding: mean, mean_tail, last, first or max.';
COMMENT ON COLUMN probe.norm_state IS 'as_returned, or final_norm where every layer passed the final norm.';
COMMENT ON COLUMN probe.layer IS '0 (the embedding output) to n.';
COMMENT ON COLUMN probe.protocol IS 'How it was fitted.';
COMMENT ON COLUMN probe.accuracy IS 'Share of test rows classified correctly, 0 to 1.';
COMMENT ON COLUMN probe.accuracy_low IS 'Lower end of the 95 % interval of the accuracy.';
COMMENT ON COLUMN probe.accuracy_high IS 'Upper end of it.';
COMMENT ON COLUMN probe.macro_f1 IS 'F1 averaged over classes, 0 to 1.';
COMMENT ON COLUMN probe.balanced_accuracy IS 'Recall averaged over classes, 0 to 1.';
COMMENT ON COLUMN probe.majority_accuracy IS 'Accuracy of always naming the largest class, 0 to 1.';
COMMENT ON COLUMN probe.log_loss IS 'Mean negative log likelihood, in nats.';
COMMENT ON COLUMN probe.penalty IS 'L2 penalty, chosen on train rows.';
COMMENT ON COLUMN probe.iterations IS 'Iterations of the solver.';
COMMENT ON COLUMN probe.converged IS 'Whether the solver reached its tolerance.';
COMMENT ON COLUMN probe.n_train IS 'Train rows.';
COMMENT ON COLUMN probe.n_test IS 'Test rows.';
COMMENT ON COLUMN probe.seconds IS 'Seconds of fitting and measuring.';

COMMENT ON TABLE criterion IS 'A score of one layer on train rows that needs no gradient training.';
COMMENT ON COLUMN criterion.run_id IS 'The run.';
COMMENT ON COLUMN criterion.pooling IS 'How token states became one embedding: mean, mean_tail, last, first or max.';
COMMENT ON COLUMN criterion.norm_state IS 'as_returned, or final_norm where every layer passed the final norm.';
COMMENT ON COLUMN criterion.layer IS '0 (the embedding output) to n.';
COMMENT ON COLUMN criterion.name IS 'Name of the criterion, such as ridge_loo or logme.';
COMMENT ON COLUMN criterion.value IS 'Its value; which way is better is the criterion''s own.';
COMMENT ON COLUMN criterion.seconds IS 'Seconds it took.';

COMMENT ON TABLE inflection_point IS 'A layer where the trend of a silhouette curve turns or breaks by more than its noise.';
COMMENT ON COLUMN inflection_point.run_id IS 'The run.';
COMMENT ON COLUMN inflection_point.pooling IS
    'How token states became one embedding: mean, mean_tail, last, first or max.';
COMMENT ON COLUMN inflection_point.norm_state IS 'as_returned, or final_norm where every layer passed the final norm.';
COMMENT ON COLUMN inflection_point.metric IS 'Metric of the silhouette curve.';
COMMENT ON COLUMN inflection_point.layer IS '0 (the embedding output) to n.';
COMMENT ON COLUMN inflection_point.kind IS 'peak, trough or knee.';
COMMENT ON COLUMN inflection_point.relative_change IS 'Change over the point, as a share of the range of the curve.';
COMMENT ON COLUMN inflection_point.strength IS 'The same change in standard errors of the curve''s paired noise.';

COMMENT ON TABLE trend IS 'A layer curve as a sequence of straight segments.';
COMMENT ON COLUMN trend.run_id IS 'The run.';
COMMENT ON COLUMN trend.pooling IS 'How token states became one embedding: mean, mean_tail, last, first or max.';
COMMENT ON COLUMN trend.norm_state IS 'as_returned, or final_norm where every layer passed the final norm.';
COMMENT ON COLUMN trend.curve IS 'silhouette:METRIC or accuracy.';
COMMENT ON COLUMN trend.segment IS 'Number of the segment, from 0.';
COMMENT ON COLUMN trend.from_layer IS 'Its first layer.';
COMMENT ON COLUMN trend.to_layer IS 'Its last layer.';
COMMENT ON COLUMN trend.direction IS 'up, down or flat.';
COMMENT ON COLUMN trend.relative_change IS 'Change from first to last layer, as a share of the range of the curve.';

COMMENT ON TABLE layer_choice IS 'The layer that a rule picks from train rows, before any test row is read.';
COMMENT ON COLUMN layer_choice.run_id IS 'The run.';
COMMENT ON COLUMN layer_choice.pooling IS 'How token states became one embedding: mean, mean_tail, last, first or max.';
COMMENT ON COLUMN layer_choice.norm_state IS 'as_returned, or final_norm where every layer passed the final norm.';
COMMENT ON COLUMN layer_choice.rule IS 'Name of the rule.';
COMMENT ON COLUMN layer_choice.layer IS 'The chosen layer.';
COMMENT ON COLUMN layer_choice.score IS 'Ridge leave-one-out accuracy of the layer on train rows, 0 to 1.';
COMMENT ON COLUMN layer_choice.confidence IS
    'Share of redraws of the train rows that lead to this layer or one within noise of it, 0 to 1.';
COMMENT ON COLUMN layer_choice.reason IS 'What was compared and why this layer, for people.';
COMMENT ON COLUMN layer_choice.is_default IS 'Whether the default rule made it.';
COMMENT ON COLUMN layer_choice.is_answer IS
    'True for one row a run: of the default choices, the one with the best train score.';

COMMENT ON TABLE audit IS 'What a rule''s choice was worth on test rows.';
COMMENT ON COLUMN audit.run_id IS 'The run.';
COMMENT ON COLUMN audit.pooling IS 'How token states became one embedding: mean, mean_tail, last, first or max.';
COMMENT ON COLUMN audit.norm_state IS 'as_returned, or final_norm where every layer passed the final norm.';
COMMENT ON COLUMN audit.rule IS 'Name of the rule.';
COMMENT ON COLUMN audit.is_default IS 'Whether the default rule made the choice.';
COMMENT ON COLUMN audit.is_answer IS 'Whether the choice is the answer of its run.';
COMMENT ON COLUMN audit.chosen_layer IS 'The chosen layer.';
COMMENT ON COLUMN audit.chosen_accuracy IS 'Its accuracy on test rows, 0 to 1.';
COMMENT ON COLUMN audit.last_accuracy IS 'Accuracy of the last layer.';
COMMENT ON COLUMN audit.best_layer IS 'The layer of the highest test accuracy.';
COMMENT ON COLUMN audit.best_accuracy IS 'Its accuracy; the highest of many, so it flatters itself a little.';
COMMENT ON COLUMN audit.regret IS 'Best minus chosen accuracy.';
COMMENT ON COLUMN audit.gain_over_last IS 'Chosen minus last-layer accuracy.';
COMMENT ON COLUMN audit.gain_low IS 'Lower end of the paired 95 % interval of the gain over last.';
COMMENT ON COLUMN audit.gain_high IS 'Upper end of it.';
COMMENT ON COLUMN audit.p_value IS 'McNemar''s test of chosen against last layer.';
COMMENT ON COLUMN audit.split_regret IS
    'Regret with the best layer found on one half of the test rows and measured on the other, both ways.';
COMMENT ON COLUMN audit.first_accuracy IS 'Accuracy of layer 0, the embedding output.';
COMMENT ON COLUMN audit.gain_over_first IS 'Chosen minus first-layer accuracy.';
COMMENT ON COLUMN audit.gain_over_first_low IS 'Lower end of its paired 95 % interval.';
COMMENT ON COLUMN audit.gain_over_first_high IS 'Upper end of it.';
COMMENT ON COLUMN audit.gain_over_first_p_value IS 'McNemar''s test of chosen against first layer.';

COMMENT ON VIEW latest_run IS 'Every run with its newest execution, newest first.';
COMMENT ON COLUMN latest_run.run_id IS 'The run.';
COMMENT ON COLUMN latest_run.model_id IS 'The model as it was asked for.';
COMMENT ON COLUMN latest_run.dataset_id IS 'The data set as it was asked for.';
COMMENT ON COLUMN latest_run.finished_at IS 'End of the newest execution.';
COMMENT ON COLUMN latest_run.seconds IS 'Its wall time in seconds.';
COMMENT ON COLUMN latest_run.device IS 'Its torch device.';

COMMENT ON VIEW layer_curve IS 'One row a layer and silhouette metric: silhouette and accuracy, with their errors.';
COMMENT ON COLUMN layer_curve.model_id IS 'The model as it was asked for.';
COMMENT ON COLUMN layer_curve.dataset_id IS 'The data set as it was asked for.';
COMMENT ON COLUMN layer_curve.run_id IS 'The run.';
COMMENT ON COLUMN layer_curve.pooling IS 'How token states became one embedding: mean, mean_tail, last, first or max.';
COMMENT ON COLUMN layer_curve.norm_state IS 'as_returned, or final_norm where every layer passed the final norm.';
COMMENT ON COLUMN layer_curve.layer IS '0 (the embedding output) to n.';
COMMENT ON COLUMN layer_curve.depth IS 'layer / n, 0 to 1.';
COMMENT ON COLUMN layer_curve.metric IS 'Metric of the silhouette.';
COMMENT ON COLUMN layer_curve.space IS 'raw, or what the embeddings went through first.';
COMMENT ON COLUMN layer_curve.silhouette IS 'Mean silhouette on train rows, -1 to 1.';
COMMENT ON COLUMN layer_curve.silhouette_error IS 'Its standard error.';
COMMENT ON COLUMN layer_curve.accuracy IS 'Probe accuracy on test rows, 0 to 1.';
COMMENT ON COLUMN layer_curve.accuracy_low IS 'Lower end of its 95 % interval.';
COMMENT ON COLUMN layer_curve.accuracy_high IS 'Upper end of it.';

COMMENT ON VIEW leaderboard IS 'Which layer? The answer of every run and what it was worth, the highest accuracy first.';
COMMENT ON COLUMN leaderboard.model_id IS 'The model as it was asked for.';
COMMENT ON COLUMN leaderboard.dataset_id IS 'The data set as it was asked for.';
COMMENT ON COLUMN leaderboard.pooling IS 'How token states became one embedding: mean, mean_tail, last, first or max.';
COMMENT ON COLUMN leaderboard.norm_state IS 'as_returned, or final_norm where every layer passed the final norm.';
COMMENT ON COLUMN leaderboard.chosen_layer IS 'The chosen layer.';
COMMENT ON COLUMN leaderboard.depth IS 'chosen layer / n, 0 to 1.';
COMMENT ON COLUMN leaderboard.confidence IS
    'Share of redraws of the train rows that lead to this layer or one within noise of it, 0 to 1.';
COMMENT ON COLUMN leaderboard.chosen_accuracy IS 'Its accuracy on test rows, 0 to 1.';
COMMENT ON COLUMN leaderboard.last_accuracy IS 'Accuracy of the last layer.';
COMMENT ON COLUMN leaderboard.best_layer IS 'The layer of the highest test accuracy.';
COMMENT ON COLUMN leaderboard.best_accuracy IS 'Its accuracy; the highest of many, so it flatters itself a little.';
COMMENT ON COLUMN leaderboard.regret IS 'Best minus chosen accuracy.';
COMMENT ON COLUMN leaderboard.gain_over_last IS 'Chosen minus last-layer accuracy.';
COMMENT ON COLUMN leaderboard.gain_low IS 'Lower end of the paired 95 % interval of the gain over last.';
COMMENT ON COLUMN leaderboard.gain_high IS 'Upper end of it.';
COMMENT ON COLUMN leaderboard.p_value IS 'McNemar''s test of chosen against last layer.';
COMMENT ON COLUMN leaderboard.reason IS 'Why this layer, for people.';
COMMENT ON COLUMN leaderboard.run_id IS 'The run.';

COMMENT ON VIEW certainty IS 'How sure? The answer of every run with what speaks for and against it, the most confident first.';
COMMENT ON COLUMN certainty.model_id IS 'The model as it was asked for.';
COMMENT ON COLUMN certainty.dataset_id IS 'The data set as it was asked for.';
COMMENT ON COLUMN certainty.pooling IS 'How token states became one embedding: mean, mean_tail, last, first or max.';
COMMENT ON COLUMN certainty.norm_state IS 'as_returned, or final_norm where every layer passed the final norm.';
COMMENT ON COLUMN certainty.chosen_layer IS 'The chosen layer.';
COMMENT ON COLUMN certainty.confidence IS
    'Share of redraws of the train rows that lead to this layer or one within noise of it, 0 to 1.';
COMMENT ON COLUMN certainty.gain_over_last IS 'Chosen minus last-layer accuracy.';
COMMENT ON COLUMN certainty.gain_low IS 'Lower end of the paired 95 % interval of the gain over last.';
COMMENT ON COLUMN certainty.gain_high IS 'Upper end of it.';
COMMENT ON COLUMN certainty.p_value IS 'McNemar''s test of chosen against last layer.';
COMMENT ON COLUMN certainty.verdict IS 'The 95 % interval of the gain over last in words.';
COMMENT ON COLUMN certainty.n_train IS 'Train rows.';
COMMENT ON COLUMN certainty.n_test IS 'Test rows.';
COMMENT ON COLUMN certainty.majority_accuracy IS 'Accuracy of always naming the largest class.';
COMMENT ON COLUMN certainty.truncated_share IS 'Share of the texts that were cut, 0 to 1.';
COMMENT ON COLUMN certainty.test_is_made IS 'Whether the test split was taken from train for want of one.';
COMMENT ON COLUMN certainty.run_id IS 'The run.';

COMMENT ON VIEW pooling_comparison IS 'What does pooling change? The default choice for every pooling and norm state of a run.';
COMMENT ON COLUMN pooling_comparison.model_id IS 'The model as it was asked for.';
COMMENT ON COLUMN pooling_comparison.dataset_id IS 'The data set as it was asked for.';
COMMENT ON COLUMN pooling_comparison.pooling IS
    'How token states became one embedding: mean, mean_tail, last, first or max.';
COMMENT ON COLUMN pooling_comparison.norm_state IS
    'as_returned, or final_norm where every layer passed the final norm.';
COMMENT ON COLUMN pooling_comparison.chosen_layer IS 'The chosen layer.';
COMMENT ON COLUMN pooling_comparison.train_score IS
    'Ridge leave-one-out accuracy on train rows, by which the answer was picked.';
COMMENT ON COLUMN pooling_comparison.chosen_accuracy IS 'Its accuracy on test rows, 0 to 1.';
COMMENT ON COLUMN pooling_comparison.last_accuracy IS 'Accuracy of the last layer.';
COMMENT ON COLUMN pooling_comparison.gain_over_last IS 'Chosen minus last-layer accuracy.';
COMMENT ON COLUMN pooling_comparison.accuracy_against_answer IS 'Its test accuracy minus that of the run''s answer.';
COMMENT ON COLUMN pooling_comparison.is_answer IS 'Whether it is the answer of its run.';
COMMENT ON COLUMN pooling_comparison.run_id IS 'The run.';

COMMENT ON VIEW equal_depth IS 'How do models compare at equal depth? The layer nearest to each tenth of the depth, as measured.';
COMMENT ON COLUMN equal_depth.model_id IS 'The model as it was asked for.';
COMMENT ON COLUMN equal_depth.dataset_id IS 'The data set as it was asked for.';
COMMENT ON COLUMN equal_depth.pooling IS 'How token states became one embedding: mean, mean_tail, last, first or max.';
COMMENT ON COLUMN equal_depth.norm_state IS 'as_returned, or final_norm where every layer passed the final norm.';
COMMENT ON COLUMN equal_depth.depth IS '0, 0.1 … 1.';
COMMENT ON COLUMN equal_depth.layer IS 'The layer nearest to that depth.';
COMMENT ON COLUMN equal_depth.layers IS 'Blocks of the model.';
COMMENT ON COLUMN equal_depth.accuracy IS 'Probe accuracy on test rows, 0 to 1.';
COMMENT ON COLUMN equal_depth.accuracy_low IS 'Lower end of its 95 % interval.';
COMMENT ON COLUMN equal_depth.accuracy_high IS 'Upper end of it.';
COMMENT ON COLUMN equal_depth.macro_f1 IS 'F1 averaged over classes, 0 to 1.';
COMMENT ON COLUMN equal_depth.run_id IS 'The run.';

COMMENT ON VIEW cost IS 'What did it cost? One row a run; scores run side by side, so their sums may exceed the run''s seconds.';
COMMENT ON COLUMN cost.model_id IS 'The model as it was asked for.';
COMMENT ON COLUMN cost.dataset_id IS 'The data set as it was asked for.';
COMMENT ON COLUMN cost.rows IS 'Texts that were embedded.';
COMMENT ON COLUMN cost.tokens IS 'Tokens that were read.';
COMMENT ON COLUMN cost.embedding_seconds IS
    'Seconds of computing the embeddings, paid once for all runs that use them.';
COMMENT ON COLUMN cost.tokens_per_second IS 'Tokens over those seconds.';
COMMENT ON COLUMN cost.silhouette_seconds IS 'Seconds of all silhouettes; NULL where not recorded.';
COMMENT ON COLUMN cost.criterion_seconds IS 'Seconds of all criteria.';
COMMENT ON COLUMN cost.probe_seconds IS 'Seconds of all probes.';
COMMENT ON COLUMN cost.first_seconds IS 'Wall time of the first execution.';
COMMENT ON COLUMN cost.latest_seconds IS 'Wall time of the newest execution.';
COMMENT ON COLUMN cost.executions IS 'How often the run was carried out.';
COMMENT ON COLUMN cost.device IS 'Device of the newest execution.';
COMMENT ON COLUMN cost.run_id IS 'The run.';

COMMENT ON VIEW changes IS 'What changed since last night? A run beside the one before it with the same parameters, newest first.';
COMMENT ON COLUMN changes.model_id IS 'The model as it was asked for.';
COMMENT ON COLUMN changes.dataset_id IS 'The data set as it was asked for.';
COMMENT ON COLUMN changes.run_id IS 'The run.';
COMMENT ON COLUMN changes.previous_run_id IS 'The run before it with the same parameters.';
COMMENT ON COLUMN changes.finished_at IS 'End of its newest execution.';
COMMENT ON COLUMN changes.previous_finished_at IS 'The same of the run before.';
COMMENT ON COLUMN changes.changed IS
    'What differs between the two: data set, revision, code, dtype, device, library versions.';
COMMENT ON COLUMN changes.previous_curve IS 'Pooling and norm state of the answer before.';
COMMENT ON COLUMN changes.curve IS 'Pooling and norm state of the answer.';
COMMENT ON COLUMN changes.previous_layer IS 'Chosen layer before.';
COMMENT ON COLUMN changes.layer IS 'Chosen layer.';
COMMENT ON COLUMN changes.previous_accuracy IS 'Its test accuracy before.';
COMMENT ON COLUMN changes.accuracy IS 'Its test accuracy.';
COMMENT ON COLUMN changes.difference IS 'Accuracy minus accuracy before.';

COMMENT ON VIEW impossible_row IS 'Rows that contradict another row; a merge refuses a run that has any.';
COMMENT ON COLUMN impossible_row.run_id IS 'The run.';
COMMENT ON COLUMN impossible_row.table_name IS 'Table of the row.';
COMMENT ON COLUMN impossible_row.layer IS 'Its layer, where it has one.';
COMMENT ON COLUMN impossible_row.why IS 'What is wrong with it.';
