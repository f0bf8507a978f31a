-- Times without a zone that were written in Berlin, across both changes of its clocks; and times in other clothes.
CREATE TABLE users (id serial PRIMARY KEY, clerk_id text UNIQUE, email text UNIQUE, created_at date, updated_at bigint);
CREATE TABLE monitors (id serial PRIMARY KEY, user_id integer REFERENCES users (id), name text, url text, status text,
  last_checked text, ssl_expiry timestamptz, created_at double precision, updated_at timestamp);
CREATE TABLE status_reports (id serial PRIMARY KEY, monitor_id integer REFERENCES monitors (id), status text, response_time integer, checked_at timestamp);
INSERT INTO users (clerk_id, email, created_at, updated_at) VALUES ('a', 'a@example.com', '2026-07-01', 1782856800123), ('b', 'b@example.com', '2026-01-01', 1782856800);
INSERT INTO monitors (user_id, name, url, status, last_checked, ssl_expiry, created_at, updated_at) VALUES
  (1, 'A', 'https://a.example.com', 'up', '2026-07-01T12:00:00', '2027-01-01 00:00:00+00', 1782856800.5, '2026-07-01 12:00'),
  (2, 'B', 'https://b.example.com', 'up', '2026-07-01T12:00:00.250Z', NULL, NULL, '2026-01-01 12:00'),
  (2, 'C', 'https://c.example.com', 'up', 'yesterday', NULL, NULL, '2026-01-01 12:00');
INSERT INTO status_reports (monitor_id, status, checked_at) VALUES
  (1, 'up', '2026-01-15 12:00'), (1, 'up', '2026-07-15 12:00'),
  -- skipped by the clocks, and twice on them
  (1, 'up', '2026-03-29 02:30'), (1, 'up', '2026-10-25 02:30'), (1, 'up', '2026-10-25 03:00');
