-- Of prompts that raced, the answer is the one that won: its run has the race's steps, and the scores of both runs are of
-- the few rows that the race took.

CREATE OR REPLACE VIEW prompt_comparison AS
WITH winner AS (
    SELECT run_id FROM race_step GROUP BY run_id HAVING count(DISTINCT prompt) > 1
)
SELECT run.model_id, run.dataset_id, run.prompt, choice.pooling, choice.norm_state, choice.layer AS chosen_layer,
       choice.score AS train_score, audit.chosen_accuracy,
       audit.chosen_accuracy - max(audit.chosen_accuracy) FILTER (run.prompt IS NULL) OVER same
           AS accuracy_against_no_prompt,
       row_number() OVER (same ORDER BY winner.run_id IS NULL, choice.score DESC, run.prompt NULLS FIRST, run.run_id) = 1
           AS is_answer, run.run_id
FROM layer_choice AS choice
JOIN run USING (run_id)
JOIN audit USING (run_id, pooling, norm_state, rule)
LEFT JOIN winner USING (run_id)
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
COMMENT ON COLUMN prompt_comparison.is_answer IS
    'Whether it won the race of these runs, or where none raced, its train score is the highest; of equals one, no prompt first.';
COMMENT ON COLUMN prompt_comparison.run_id IS 'The run.';
