-- The newest execution of each run, newest first.
CREATE VIEW latest_run AS
SELECT run.run_id, run.model_id, run.dataset_id, newest.finished_at, newest.seconds, newest.device
FROM run
JOIN (
    SELECT run_id, max(finished_at) AS finished_at, arg_max(seconds, finished_at) AS seconds,
           arg_max(device, finished_at) AS device
    FROM execution GROUP BY run_id
) AS newest USING (run_id)
ORDER BY newest.finished_at DESC;

-- One row a layer: every silhouette metric in its own row, the probe's accuracy and band beside it.
CREATE VIEW layer_curve AS
SELECT run.model_id, run.dataset_id, silhouette.run_id, silhouette.pooling, silhouette.norm_state, silhouette.layer,
       silhouette.layer / run.layers AS depth, silhouette.metric, silhouette.space,
       silhouette.mean AS silhouette, silhouette.standard_error AS silhouette_error,
       probe.accuracy, probe.accuracy_low, probe.accuracy_high
FROM silhouette
JOIN run USING (run_id)
LEFT JOIN probe USING (run_id, pooling, norm_state, layer)
ORDER BY silhouette.run_id, silhouette.pooling, silhouette.norm_state, silhouette.metric, silhouette.layer;

-- The answer of each run: which layer, why, how sure, and what it was worth on rows it never saw.
CREATE VIEW leaderboard AS
SELECT run.model_id, run.dataset_id, choice.pooling, choice.norm_state, choice.layer AS chosen_layer,
       choice.layer / run.layers AS depth, choice.confidence, audit.chosen_accuracy, audit.last_accuracy,
       audit.best_layer, audit.best_accuracy, audit.regret, audit.gain_over_last, audit.gain_low, audit.gain_high,
       audit.p_value, choice.reason, run.run_id
FROM layer_choice AS choice
JOIN run USING (run_id)
JOIN audit USING (run_id, pooling, norm_state, rule)
WHERE choice.is_answer
ORDER BY audit.chosen_accuracy DESC;
