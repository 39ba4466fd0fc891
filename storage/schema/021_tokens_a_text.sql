-- Where words are the rows, tokens are told a text all the same: of the views that came before tags of words, atlas
-- divided by rows, and pareto told a word's milliseconds.

COMMENT ON COLUMN embedding_set.rows IS 'Rows that were embedded, train and test: texts, pairs of texts, or words.';

CREATE OR REPLACE VIEW atlas AS
WITH turning AS (
    SELECT DISTINCT run_id, pooling, norm_state, layer, TRUE AS turns FROM inflection_point
), chosen AS (
    SELECT run_id, pooling, norm_state, layer, is_answer FROM layer_choice WHERE is_default
)
SELECT run.model_id, run.dataset_id, model.family,
       CASE WHEN dataset.task = 'multi-label' THEN 'several labels' WHEN dataset.task = 'regression' THEN 'a number'
            WHEN dataset.task = 'token-classification' THEN 'tags of words'
            WHEN len(dataset.classes) = 2 THEN 'two classes' WHEN len(dataset.classes) < 10 THEN 'few classes'
            WHEN len(dataset.classes) >= 10 THEN 'many classes' END AS kind,
       len(dataset.classes) AS classes,
       nullif(embedding_set.tokens, 0) / coalesce(dataset.texts, embedding_set.rows) AS text_tokens,
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
COMMENT ON COLUMN atlas.kind IS 'two classes, few classes (3 to 9), many classes, tags of words, several labels or a number; the last two have other measures in the place of accuracy: see dataset.task.';
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
