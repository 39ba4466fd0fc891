-- Many models and data sets at one view, and what the cut models cost.

CREATE VIEW atlas AS
WITH turning AS (
    SELECT DISTINCT run_id, pooling, norm_state, layer, TRUE AS turns FROM inflection_point
), chosen AS (
    SELECT run_id, pooling, norm_state, layer, is_answer FROM layer_choice WHERE is_default
)
SELECT run.model_id, run.dataset_id, model.family,
       CASE WHEN dataset.task = 'multi-label' THEN 'several labels' WHEN dataset.task = 'regression' THEN 'a number'
            WHEN len(dataset.classes) = 2 THEN 'two classes' WHEN len(dataset.classes) < 10 THEN 'few classes'
            WHEN len(dataset.classes) >= 10 THEN 'many classes' END AS kind,
       len(dataset.classes) AS classes, nullif(embedding_set.tokens, 0) / embedding_set.rows AS text_tokens,
       run.prompt, probe.pooling, probe.norm_state, probe.layer, run.layers, probe.layer / run.layers AS depth,
       probe.accuracy, probe.accuracy_low, probe.accuracy_high,
       max(probe.accuracy) OVER curve - probe.accuracy AS regret,
       probe.accuracy - arg_max(probe.accuracy, probe.layer) OVER curve AS gain_over_last,
       row_number() OVER (curve ORDER BY probe.accuracy DESC, probe.layer) = 1 AS is_best,
       coalesce(probe.layer = chosen.layer, FALSE) AS is_chosen, coalesce(turning.turns, FALSE) AS is_turning,
       coalesce(chosen.is_answer, FALSE) AS is_answer, probe.n_test, run.run_id
FROM probe
JOIN run USING (run_id)
LEFT JOIN model ON model.id = run.model_id AND model.revision = run.model_revision
LEFT JOIN dataset ON dataset.id = run.dataset_id AND dataset.fingerprint = run.dataset_fingerprint
LEFT JOIN embedding_set USING (embedding_set_id)
LEFT JOIN chosen USING (run_id, pooling, norm_state)
LEFT JOIN turning ON turning.run_id = probe.run_id AND turning.pooling = probe.pooling
    AND turning.norm_state = probe.norm_state AND turning.layer = probe.layer
WINDOW curve AS (PARTITION BY probe.run_id, probe.pooling, probe.norm_state)
ORDER BY model.family, coalesce(dataset.task, 'single-label') <> 'single-label', dataset.task,
         len(dataset.classes) > 2, len(dataset.classes) >= 10, text_tokens, run.dataset_id,
         run.model_id, run.prompt NULLS FIRST, run.run_id, probe.pooling, probe.norm_state, probe.layer;
COMMENT ON VIEW atlas IS
    'Where do accuracies lie, for many models and data sets? A row a layer, by family, kind and text length; the best is a description of test rows, never a choice.';
COMMENT ON COLUMN atlas.model_id IS 'The model as it was asked for.';
COMMENT ON COLUMN atlas.dataset_id IS 'The data set as it was asked for.';
COMMENT ON COLUMN atlas.family IS 'The model''s architecture, such as llama or bert.';
COMMENT ON COLUMN atlas.kind IS 'two classes, few classes (3 to 9), many classes, several labels or a number; the last two have other measures in the place of accuracy: see dataset.task.';
COMMENT ON COLUMN atlas.classes IS 'Classes of the data set.';
COMMENT ON COLUMN atlas.text_tokens IS
    'Mean tokens of a text that were read, its prompt among them; NULL for states that somebody saved.';
COMMENT ON COLUMN atlas.prompt IS 'The template around every text; NULL: none.';
COMMENT ON COLUMN atlas.pooling IS 'How token states became one embedding: mean, mean_tail, text_mean, last, first or max.';
COMMENT ON COLUMN atlas.norm_state IS 'as_returned, or final_norm where every layer passed the final norm.';
COMMENT ON COLUMN atlas.layer IS '0 (the embedding output) to n.';
COMMENT ON COLUMN atlas.layers IS 'n, the blocks of the model.';
COMMENT ON COLUMN atlas.depth IS 'layer / n, 0 to 1.';
COMMENT ON COLUMN atlas.accuracy IS 'Probe accuracy on test rows, 0 to 1.';
COMMENT ON COLUMN atlas.accuracy_low IS 'Lower end of its 95 % interval.';
COMMENT ON COLUMN atlas.accuracy_high IS 'Upper end of it.';
COMMENT ON COLUMN atlas.regret IS 'Best accuracy of the same run, pooling and norm state minus this one.';
COMMENT ON COLUMN atlas.gain_over_last IS 'This minus the accuracy of the deepest layer that was run.';
COMMENT ON COLUMN atlas.is_best IS
    'Whether its test accuracy is the highest of its curve (the shallowest of equals). Nobody can choose by it.';
COMMENT ON COLUMN atlas.is_chosen IS 'Whether the default rule chose it, from train rows alone.';
COMMENT ON COLUMN atlas.is_turning IS 'Whether it is an inflection point of a silhouette, of any metric.';
COMMENT ON COLUMN atlas.is_answer IS 'Whether pooling and norm state are those of the run''s answer.';
COMMENT ON COLUMN atlas.n_test IS 'Test rows.';
COMMENT ON COLUMN atlas.run_id IS 'The run.';

CREATE VIEW pareto AS
WITH embedded AS (
    SELECT DISTINCT embedding_set_id, run.model_id, run.model_revision, run.dtype, run.device_kind,
           embedding_set.seconds, embedding_set.tokens,
           least(coalesce(CAST(run.parameters ->> 'max_layer' AS INTEGER), run.layers), run.layers) AS blocks
    FROM run JOIN embedding_set USING (embedding_set_id)
), speed AS (
    -- Over all data sets: a single run's seconds vary by more than the runs that are to be compared.
    SELECT model_id, model_revision, dtype, device_kind,
           sum(seconds) / nullif(sum(tokens * blocks), 0) AS seconds_of_a_token_and_block
    FROM embedded GROUP BY ALL
), costed AS (
    SELECT atlas.*, run.device_kind, run.dataset_fingerprint,
           1000 * text_tokens * atlas.layer * seconds_of_a_token_and_block AS milliseconds
    FROM atlas
    JOIN run USING (run_id)
    JOIN speed ON speed.model_id = run.model_id AND speed.model_revision = run.model_revision
        AND speed.dtype = run.dtype AND speed.device_kind = run.device_kind
    WHERE text_tokens > 0 AND seconds_of_a_token_and_block > 0
), compared AS (
    SELECT *, max(accuracy) OVER same AS best_accuracy,
           max(accuracy) OVER (
               same ORDER BY milliseconds RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
           ) AS best_so_far,
           max(accuracy) OVER (
               same ORDER BY milliseconds RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW EXCLUDE GROUP
           ) AS best_of_cheaper
    FROM costed
    WINDOW same AS (PARTITION BY dataset_id, dataset_fingerprint, device_kind)
)
SELECT dataset_id, model_id, prompt, pooling, norm_state, layer, layers, depth AS share_of_blocks, text_tokens,
       milliseconds AS milliseconds_per_text, accuracy, accuracy_low, accuracy_high,
       best_accuracy - accuracy AS below_best,
       accuracy = best_so_far AND accuracy > coalesce(best_of_cheaper, -1) AS on_front,
       row_number() OVER (
           PARTITION BY dataset_id, dataset_fingerprint, device_kind
           ORDER BY best_accuracy - accuracy > 0.005 + 1e-9, milliseconds, accuracy DESC, run_id, pooling, norm_state,
                    layer
       ) = 1 AS is_cheapest_near_best,
       is_chosen, is_answer, device_kind, dataset_fingerprint, run_id
FROM compared
ORDER BY dataset_id, dataset_fingerprint, device_kind, milliseconds, accuracy DESC, run_id, pooling, norm_state, layer;
COMMENT ON VIEW pareto IS
    'What does accuracy cost? A row a cut model, those of the same test rows and kind of device compared. By test rows: a description, never a choice.';
COMMENT ON COLUMN pareto.dataset_id IS 'The data set as it was asked for.';
COMMENT ON COLUMN pareto.model_id IS 'The model as it was asked for.';
COMMENT ON COLUMN pareto.prompt IS 'The template around every text; NULL: none.';
COMMENT ON COLUMN pareto.pooling IS 'How token states became one embedding: mean, mean_tail, text_mean, last, first or max.';
COMMENT ON COLUMN pareto.norm_state IS 'as_returned, or final_norm where every layer passed the final norm.';
COMMENT ON COLUMN pareto.layer IS 'The last block that the cut model keeps; 0: none.';
COMMENT ON COLUMN pareto.layers IS 'Blocks of the whole model.';
COMMENT ON COLUMN pareto.share_of_blocks IS 'layer / layers, 0 to 1.';
COMMENT ON COLUMN pareto.text_tokens IS 'Mean tokens of a text that were read, its prompt among them.';
COMMENT ON COLUMN pareto.milliseconds_per_text IS
    'Told, not timed: those tokens x blocks kept x the seconds of a token and block that the model''s embedding sets took on such a device.';
COMMENT ON COLUMN pareto.accuracy IS 'Probe accuracy on test rows, 0 to 1.';
COMMENT ON COLUMN pareto.accuracy_low IS 'Lower end of its 95 % interval.';
COMMENT ON COLUMN pareto.accuracy_high IS 'Upper end of it.';
COMMENT ON COLUMN pareto.below_best IS 'Highest accuracy of all that are compared with it, minus its own.';
COMMENT ON COLUMN pareto.on_front IS 'Whether none that is compared with it is cheaper and as accurate, or as cheap and more accurate.';
COMMENT ON COLUMN pareto.is_cheapest_near_best IS
    'True for one row of those that are compared: the cheapest within half a point of the best test accuracy.';
COMMENT ON COLUMN pareto.is_chosen IS 'Whether the default rule chose the layer, from train rows alone.';
COMMENT ON COLUMN pareto.is_answer IS 'Whether pooling and norm state are those of the run''s answer.';
COMMENT ON COLUMN pareto.device_kind IS 'cpu or cuda: costs of one kind are compared.';
COMMENT ON COLUMN pareto.dataset_fingerprint IS 'Of the rows: accuracies on the same rows are compared.';
COMMENT ON COLUMN pareto.run_id IS 'The run.';
