-- What stands around every text, and what it changes.

ALTER TABLE run ADD COLUMN prompt VARCHAR;
COMMENT ON COLUMN run.prompt IS
    'The template around every text, with {text} in the place of the text. NULL: nothing was, or the run is of a version without prompts.';

-- What does a prompt change? The answers of runs that differ in nothing else, the best train score first.
CREATE VIEW prompt_comparison AS
SELECT run.model_id, run.dataset_id, run.prompt, choice.pooling, choice.norm_state, choice.layer AS chosen_layer,
       choice.score AS train_score, audit.chosen_accuracy,
       audit.chosen_accuracy - max(audit.chosen_accuracy) FILTER (run.prompt IS NULL) OVER same
           AS accuracy_against_no_prompt,
       choice.score = max(choice.score) OVER same AS is_answer, run.run_id
FROM layer_choice AS choice
JOIN run USING (run_id)
JOIN audit USING (run_id, pooling, norm_state, rule)
WHERE choice.is_answer
WINDOW same AS (
    PARTITION BY run.model_id, run.model_revision, run.dataset_id, run.dataset_fingerprint, run.dtype, run.device_kind,
                 run.code_version, CAST(json_merge_patch(run.parameters, '{"prompt": null}') AS VARCHAR)
)
ORDER BY run.model_id, run.dataset_id, choice.score DESC, run.run_id;
COMMENT ON VIEW prompt_comparison IS
    'What does a prompt change? The answers of runs that differ in their prompts alone, the best train score first.';
COMMENT ON COLUMN prompt_comparison.model_id IS 'The model as it was asked for.';
COMMENT ON COLUMN prompt_comparison.dataset_id IS 'The data set as it was asked for.';
COMMENT ON COLUMN prompt_comparison.prompt IS 'The template around every text; NULL: none.';
COMMENT ON COLUMN prompt_comparison.pooling IS 'Of the run''s answer.';
COMMENT ON COLUMN prompt_comparison.norm_state IS 'Of the run''s answer.';
COMMENT ON COLUMN prompt_comparison.chosen_layer IS 'Of the run''s answer.';
COMMENT ON COLUMN prompt_comparison.train_score IS
    'Share of the labels'' entropy that ridge regression tells of left-out train rows there, by which prompts are compared.';
COMMENT ON COLUMN prompt_comparison.chosen_accuracy IS 'Its accuracy on test rows (0-1).';
COMMENT ON COLUMN prompt_comparison.accuracy_against_no_prompt IS
    'Its accuracy less that of the run without a prompt; NULL where there is no such run.';
COMMENT ON COLUMN prompt_comparison.is_answer IS 'Whether its train score is the highest of these runs.';
COMMENT ON COLUMN prompt_comparison.run_id IS 'The run.';
