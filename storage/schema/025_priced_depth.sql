-- What poolings, norm states and prompts are compared by where depth has a price.
ALTER TABLE layer_choice ADD COLUMN priced_accuracy DOUBLE;
COMMENT ON COLUMN layer_choice.priced_accuracy IS
    'Expected accuracy less the price of the layer''s depth (--depth-price), by which answers are compared; NULL without a price.';
