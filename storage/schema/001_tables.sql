-- The contract of the result tables. Accuracies, gains and regret are fractions from 0 to 1 (gains from -1);
-- layers are indices into `hidden_states`, 0 being the embedding output. No foreign keys: DuckDB would refuse to
-- replace a run's rows inside one transaction.

CREATE TABLE run (
    run_id VARCHAR PRIMARY KEY,
    model_id VARCHAR NOT NULL,
    dataset_id VARCHAR NOT NULL,
    embedding_set_id VARCHAR NOT NULL,
    parameters JSON NOT NULL,
    code_version VARCHAR NOT NULL,
    layers INTEGER NOT NULL CHECK (layers >= 1),
    model_revision VARCHAR NOT NULL,
    dataset_fingerprint VARCHAR NOT NULL,
    dtype VARCHAR NOT NULL,
    device_kind VARCHAR NOT NULL,
    versions JSON NOT NULL
);

CREATE TABLE execution (
    flow_run_id VARCHAR PRIMARY KEY,
    run_id VARCHAR NOT NULL,
    status VARCHAR NOT NULL CHECK (status IN ('completed', 'failed', 'cancelled')),
    started_at TIMESTAMPTZ NOT NULL,
    finished_at TIMESTAMPTZ NOT NULL,
    seconds DOUBLE NOT NULL CHECK (seconds >= 0),
    device VARCHAR NOT NULL,
    shards_computed INTEGER NOT NULL CHECK (shards_computed >= 0),
    shards_reused INTEGER NOT NULL CHECK (shards_reused >= 0),
    CHECK (finished_at >= started_at)
);

CREATE TABLE model (
    id VARCHAR NOT NULL,
    source VARCHAR NOT NULL,
    revision VARCHAR NOT NULL,
    family VARCHAR NOT NULL,
    layers INTEGER NOT NULL CHECK (layers >= 1),
    hidden_size INTEGER NOT NULL CHECK (hidden_size >= 1),
    PRIMARY KEY (id, revision)
);

CREATE TABLE dataset (
    id VARCHAR NOT NULL,
    source VARCHAR NOT NULL,
    fingerprint VARCHAR NOT NULL,
    revision VARCHAR NOT NULL,
    classes VARCHAR[] NOT NULL CHECK (len(classes) >= 2),
    text_column VARCHAR NOT NULL,
    label_column VARCHAR NOT NULL,
    train_rows BIGINT NOT NULL CHECK (train_rows >= 2),
    test_rows BIGINT NOT NULL CHECK (test_rows >= 1),
    test_is_made BOOLEAN NOT NULL,
    PRIMARY KEY (id, fingerprint)
);

-- What one embedding set saw of a data set: how many texts the maximum length cut, and what extraction cost.
CREATE TABLE embedding_set (
    embedding_set_id VARCHAR PRIMARY KEY,
    dataset_fingerprint VARCHAR NOT NULL,
    max_length INTEGER NOT NULL CHECK (max_length >= 1),
    token_budget INTEGER NOT NULL CHECK (token_budget >= 1),
    rows BIGINT NOT NULL,
    tokens BIGINT NOT NULL,
    truncated_share DOUBLE NOT NULL CHECK (truncated_share BETWEEN 0 AND 1),
    shards INTEGER NOT NULL,
    seconds DOUBLE NOT NULL CHECK (seconds >= 0)
);

CREATE TABLE silhouette (
    run_id VARCHAR NOT NULL,
    pooling VARCHAR NOT NULL,
    norm_state VARCHAR NOT NULL,
    layer INTEGER NOT NULL CHECK (layer >= 0),
    metric VARCHAR NOT NULL,
    space VARCHAR NOT NULL,
    precision VARCHAR NOT NULL,
    mean DOUBLE NOT NULL CHECK (mean BETWEEN -1 AND 1),
    standard_error DOUBLE NOT NULL CHECK (standard_error >= 0),
    n BIGINT NOT NULL CHECK (n >= 2),
    PRIMARY KEY (run_id, pooling, norm_state, layer, metric, space)
);

CREATE TABLE silhouette_by_class (
    run_id VARCHAR NOT NULL,
    pooling VARCHAR NOT NULL,
    norm_state VARCHAR NOT NULL,
    layer INTEGER NOT NULL CHECK (layer >= 0),
    metric VARCHAR NOT NULL,
    space VARCHAR NOT NULL,
    label VARCHAR NOT NULL,
    mean DOUBLE NOT NULL CHECK (mean BETWEEN -1 AND 1),
    n BIGINT NOT NULL CHECK (n >= 1),
    PRIMARY KEY (run_id, pooling, norm_state, layer, metric, space, label)
);

CREATE TABLE probe (
    run_id VARCHAR NOT NULL,
    pooling VARCHAR NOT NULL,
    norm_state VARCHAR NOT NULL,
    layer INTEGER NOT NULL CHECK (layer >= 0),
    protocol VARCHAR NOT NULL,
    accuracy DOUBLE NOT NULL CHECK (accuracy BETWEEN 0 AND 1),
    accuracy_low DOUBLE NOT NULL CHECK (accuracy_low BETWEEN 0 AND 1),
    accuracy_high DOUBLE NOT NULL CHECK (accuracy_high BETWEEN 0 AND 1),
    macro_f1 DOUBLE NOT NULL CHECK (macro_f1 BETWEEN 0 AND 1),
    balanced_accuracy DOUBLE NOT NULL CHECK (balanced_accuracy BETWEEN 0 AND 1),
    majority_accuracy DOUBLE NOT NULL CHECK (majority_accuracy BETWEEN 0 AND 1),
    log_loss DOUBLE NOT NULL CHECK (log_loss >= 0),
    penalty DOUBLE NOT NULL CHECK (penalty >= 0),
    iterations INTEGER NOT NULL CHECK (iterations >= 0),
    converged BOOLEAN NOT NULL,
    n_train BIGINT NOT NULL CHECK (n_train >= 2),
    n_test BIGINT NOT NULL CHECK (n_test >= 1),
    seconds DOUBLE NOT NULL CHECK (seconds >= 0),
    PRIMARY KEY (run_id, pooling, norm_state, layer, protocol)
);

CREATE TABLE criterion (
    run_id VARCHAR NOT NULL,
    pooling VARCHAR NOT NULL,
    norm_state VARCHAR NOT NULL,
    layer INTEGER NOT NULL CHECK (layer >= 0),
    name VARCHAR NOT NULL,
    value DOUBLE NOT NULL CHECK (isfinite(value)),
    seconds DOUBLE NOT NULL CHECK (seconds >= 0),
    PRIMARY KEY (run_id, pooling, norm_state, layer, name)
);

CREATE TABLE inflection_point (
    run_id VARCHAR NOT NULL,
    pooling VARCHAR NOT NULL,
    norm_state VARCHAR NOT NULL,
    metric VARCHAR NOT NULL,
    layer INTEGER NOT NULL CHECK (layer >= 0),
    kind VARCHAR NOT NULL CHECK (kind IN ('peak', 'trough', 'knee')),
    relative_change DOUBLE NOT NULL,
    strength DOUBLE NOT NULL CHECK (strength >= 0),
    PRIMARY KEY (run_id, pooling, norm_state, metric, layer)
);

CREATE TABLE trend (
    run_id VARCHAR NOT NULL,
    pooling VARCHAR NOT NULL,
    norm_state VARCHAR NOT NULL,
    curve VARCHAR NOT NULL,
    segment INTEGER NOT NULL CHECK (segment >= 0),
    from_layer INTEGER NOT NULL CHECK (from_layer >= 0),
    to_layer INTEGER NOT NULL,
    direction VARCHAR NOT NULL CHECK (direction IN ('up', 'down', 'flat')),
    relative_change DOUBLE NOT NULL,
    CHECK (to_layer > from_layer),
    PRIMARY KEY (run_id, pooling, norm_state, curve, segment)
);

CREATE TABLE layer_choice (
    run_id VARCHAR NOT NULL,
    pooling VARCHAR NOT NULL,
    norm_state VARCHAR NOT NULL,
    rule VARCHAR NOT NULL,
    layer INTEGER NOT NULL CHECK (layer >= 0),
    score DOUBLE NOT NULL,
    confidence DOUBLE NOT NULL CHECK (confidence BETWEEN 0 AND 1),
    reason VARCHAR NOT NULL,
    is_default BOOLEAN NOT NULL,
    is_answer BOOLEAN NOT NULL,
    PRIMARY KEY (run_id, pooling, norm_state, rule)
);

CREATE TABLE audit (
    run_id VARCHAR NOT NULL,
    pooling VARCHAR NOT NULL,
    norm_state VARCHAR NOT NULL,
    rule VARCHAR NOT NULL,
    is_default BOOLEAN NOT NULL,
    is_answer BOOLEAN NOT NULL,
    chosen_layer INTEGER NOT NULL CHECK (chosen_layer >= 0),
    chosen_accuracy DOUBLE NOT NULL CHECK (chosen_accuracy BETWEEN 0 AND 1),
    last_accuracy DOUBLE NOT NULL CHECK (last_accuracy BETWEEN 0 AND 1),
    best_layer INTEGER NOT NULL CHECK (best_layer >= 0),
    best_accuracy DOUBLE NOT NULL CHECK (best_accuracy BETWEEN 0 AND 1),
    regret DOUBLE NOT NULL CHECK (regret BETWEEN 0 AND 1),
    gain_over_last DOUBLE NOT NULL CHECK (gain_over_last BETWEEN -1 AND 1),
    gain_low DOUBLE NOT NULL CHECK (gain_low BETWEEN -1 AND 1),
    gain_high DOUBLE NOT NULL CHECK (gain_high BETWEEN -1 AND 1),
    p_value DOUBLE NOT NULL CHECK (p_value BETWEEN 0 AND 1),
    -- Regret with the best layer found on one half of the test rows and measured on the other, both ways.
    split_regret DOUBLE NOT NULL CHECK (split_regret BETWEEN -1 AND 1),
    first_accuracy DOUBLE NOT NULL CHECK (first_accuracy BETWEEN 0 AND 1),
    gain_over_first DOUBLE NOT NULL CHECK (gain_over_first BETWEEN -1 AND 1),
    gain_over_first_low DOUBLE NOT NULL CHECK (gain_over_first_low BETWEEN -1 AND 1),
    gain_over_first_high DOUBLE NOT NULL CHECK (gain_over_first_high BETWEEN -1 AND 1),
    gain_over_first_p_value DOUBLE NOT NULL CHECK (gain_over_first_p_value BETWEEN 0 AND 1),
    PRIMARY KEY (run_id, pooling, norm_state, rule)
);
