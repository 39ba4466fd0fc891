-- Labels may be tags, one of each word of a text; the rows that are scored are words then.

COMMENT ON COLUMN dataset.task IS
    'What labels tell: single-label, one class a text; multi-label, any number of labels; regression, a number; token-classification, a tag of each word, whose rows are words. It says what accuracy means in every table: the share of texts given their class; the mean F1 of the labels of each text; the share of pairs of texts put in their true order (one half by chance); the share of words given their tag. Of several labels and numbers classes are sets of labels, or parts of the numbers, for silhouettes and strata alone.';
ALTER TABLE dataset ADD COLUMN texts BIGINT;
ALTER TABLE dataset ADD COLUMN cut_words BIGINT;
COMMENT ON COLUMN dataset.texts IS 'Of token-classification: the texts that the words are of, train and test; else NULL.';
COMMENT ON COLUMN dataset.cut_words IS
    'Of token-classification: words of these texts that are no row, since they lie beyond the tokens that are read; else NULL.';

ALTER TABLE probe ADD COLUMN entity_f1 DOUBLE;
COMMENT ON COLUMN probe.entity_f1 IS
    'Micro F1 of the entities of the test texts, 0 to 1, one being found where its type, its first and its last word are told (as seqeval without its strict mode); NULL but for token-classification with tags of entities, such as B-PER, I-PER and O.';
