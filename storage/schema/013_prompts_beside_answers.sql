-- The answers of runs that differ in their prompts can be told apart.

CREATE OR REPLACE VIEW leaderboard AS
SELECT run.model_id, run.dataset_id, choice.pooling, choice.norm_state, choice.layer AS chosen_layer,
       choice.layer / run.layers AS depth, choice.confidence, audit.chosen_accuracy, audit.last_accuracy,
       audit.best_layer, audit.best_accuracy, audit.regret, audit.gain_over_last, audit.gain_low, audit.gain_high,
       audit.p_value, choice.reason, run.run_id, run.prompt
FROM layer_choice AS choice
JOIN run USING (run_id)
JOIN audit USING (run_id, pooling, norm_state, rule)
WHERE choice.is_answer
ORDER BY audit.chosen_accuracy DESC;
COMMENT ON VIEW leaderboard IS 'Which layer? The answer of every run and what it was worth, the highest accuracy first.';
COMMENT ON COLUMN leaderboard.model_id IS 'The model as it was asked for.';
COMMENT ON COLUMN leaderboard.dataset_id IS 'The data set as it was asked for.';
COMMENT ON COLUMN leaderboard.pooling IS 'How token states became one embedding: mean, mean_tail, text_mean, last, first or max.';
COMMENT ON COLUMN leaderboard.norm_state IS 'as_returned, or final_norm where every layer passed the final norm.';
COMMENT ON COLUMN leaderboard.chosen_layer IS 'The chosen layer.';
COMMENT ON COLUMN leaderboard.depth IS 'chosen layer / n, 0 to 1.';
COMMENT ON COLUMN leaderboard.confidence IS
    'How likely the layer''s accuracy is within half a point of the best (0-1); until schema_number 6 of run: the share of redrawn train rows that agree.';
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
COMMENT ON COLUMN leaderboard.prompt IS 'The template around every text; NULL: none.';
