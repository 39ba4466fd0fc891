-- The two texts of a row may be embedded each by itself.

ALTER TABLE dataset ADD COLUMN text_pairs VARCHAR;
COMMENT ON COLUMN dataset.text_pairs IS
    'features: both texts of a row were embedded, u and v, and every embedding of the row is [u, v, |u - v|, u * v], four times as wide as the model. NULL: a row was one text, several columns joined if there were several.';
