-- Why: a stand-in for the migration of the same number that is built elsewhere, until both are merged.
-- What older code sees: a new table.
CREATE TABLE maintenance_spans (maintenance_id uuid NOT NULL, monitor_id uuid NOT NULL REFERENCES monitors (id) ON DELETE CASCADE, from_at timestamptz NOT NULL, to_at timestamptz NOT NULL, excluded boolean NOT NULL, PRIMARY KEY (monitor_id, from_at, maintenance_id), CHECK (from_at < to_at));
