-- Embeddings that are the same for every text. NULL: chosen before this was recorded.
ALTER TABLE layer_choice ADD COLUMN is_constant BOOLEAN;
COMMENT ON COLUMN layer_choice.is_constant IS
    'Whether every train row has the same embedding at the layer: it tells no texts apart, and is no answer.';
