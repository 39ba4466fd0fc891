-- What poolings, norm states and prompts are compared by where depth has a price.
ALTER TABLE layer_choice ADD COLUMN worth DOUBLE;
COMMENT ON COLUMN layer_choice.worth IS
    'Expected accuracy less the price of the layer''s depth (--depth-price), by which answers are compared; NULL without a price.';

-- What other tasks, --max-layer and --time-column had made untrue.
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
