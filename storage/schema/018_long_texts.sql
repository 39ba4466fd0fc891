-- Long texts that are read whole, in windows, and what it costs.

ALTER TABLE embedding_set ADD COLUMN split_share DOUBLE;
ALTER TABLE embedding_set ADD COLUMN split_tokens BIGINT;
COMMENT ON COLUMN embedding_set.split_share IS
    'Share of the texts (0-1) longer than max_length that were read whole, in windows that overlap (long_texts: split). NULL: of a version without.';
COMMENT ON COLUMN embedding_set.split_tokens IS
    'Of the tokens those of windows after each text''s first, which reading texts whole cost. NULL: of a version without.';
