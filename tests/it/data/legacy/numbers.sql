-- Small keys, and numbers of every kind where others have text.
CREATE TABLE users (id smallserial PRIMARY KEY, clerk_id text, email text);
CREATE TABLE monitors (id smallserial PRIMARY KEY, user_id smallint NOT NULL, url text, status text, uptime numeric(7, 5), response_time double precision,
  enabled smallint, interval_seconds numeric);
CREATE TABLE status_reports (id bigserial PRIMARY KEY, monitor_id text, status text, response_time numeric(10, 3), status_code text, checked_at timestamptz);
INSERT INTO users (clerk_id, email) SELECT 'c' || g, 'n' || g || '@example.com' FROM generate_series(1, 5) g;
INSERT INTO monitors (user_id, url, status, uptime, response_time, enabled, interval_seconds) VALUES
  (1, 'https://1.example.com', 'up', 0.9995, 12.4, 1, 60), (2, 'https://2.example.com', 'down', 1, 'NaN', 0, 0.5), (3, 'https://3.example.com', 'up', NULL, 1e20, 1, NULL);
INSERT INTO status_reports (monitor_id, status, response_time, status_code, checked_at) VALUES
  ('1', 'up', 12.000, '200', '2026-05-01 00:00:00+00'), ('2', 'down', 12.75, 'ECONNRESET', '2026-05-01 00:00:00+00'),
  (' 3 ', 'up', 9999999.5, '204', '2026-05-01 00:00:00+00'), ('x', 'up', 1, '200', '2026-05-01 00:00:00+00'), ('4', 'up', 1, '200', '2026-05-01 00:00:00+00');
