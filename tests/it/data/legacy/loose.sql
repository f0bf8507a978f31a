-- Nothing is promised by the schema: no keys at all, ids twice or missing, parents that are not there, texts twice.
CREATE TABLE users (id integer, clerk_id varchar(255), email varchar(255), name varchar(255), plan text, created_at timestamp, updated_at timestamp);
CREATE TABLE monitors (id integer, user_id integer, name varchar(255), url varchar(2048), status varchar(20), uptime varchar(20), created_at timestamp, updated_at timestamp);
CREATE TABLE status_reports (id integer, monitor_id integer, status varchar(20), response_time integer, status_code integer, error_message text, checked_at timestamp);
CREATE TABLE incidents (id integer, user_id integer, monitor_id integer, title varchar(255), description text, status varchar(20), severity varchar(20), created_at timestamp, updated_at timestamp);
INSERT INTO users VALUES
  (1, 'c1', 'Ann@example.com', 'Ann', 'pro', '2026-01-01', '2026-01-02'),
  (2, 'c2', 'ann@example.com', 'ann', NULL, '2026-01-01', NULL),
  (3, 'c1', 'ANN@example.com', NULL, 'system', NULL, NULL),
  (4, '', 'ann@example.com', 'twice', '', NULL, NULL),
  (4, 'c4', 'other@example.com', 'the id of another', 'free', NULL, NULL),
  (NULL, 'c5', 'no-id@example.com', 'no id', 'free', NULL, NULL),
  (-7, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO monitors VALUES
  (1, 1, NULL, 'https://user:geheim@one.example.com:8443/path', 'Up', '95.5%', '2026-01-01', '2026-01-02'),
  (2, 2, '  ', 'two.example.com/x', 'ONLINE', '100%', NULL, NULL),
  (3, 99, 'orphan', 'https://three.example.com', 'up', '100%', NULL, NULL),
  (4, NULL, 'nobody''s', 'https://four.example.com', 'weird', 'n/a', NULL, NULL),
  (5, -7, 'Five', NULL, NULL, NULL, NULL, NULL),
  (6, 4, 'Six', 'https://six.example.com', 'paused', '12.345', NULL, NULL),
  (6, 1, 'Six again', 'https://six.example.com', 'up', '1%', NULL, NULL),
  (NULL, 1, 'no id', 'https://none.example.com', 'up', '1%', NULL, NULL);
INSERT INTO status_reports SELECT g, 1 + g % 8, (ARRAY['up', 'DOWN', 'Degraded', 'pending', '???'])[1 + g % 5], g, 200, NULL, '2026-05-01'::timestamp + g * interval '1 minute'
  FROM generate_series(1, 800) g;
INSERT INTO status_reports VALUES (801, 1, 'up', 1, 200, NULL, NULL), (801, 1, 'up', 2, 200, NULL, '2026-05-02'), (802, NULL, 'up', 1, 200, NULL, '2026-05-02'),
  (803, 1, NULL, -5, NULL, 'x', '2026-05-02'), (NULL, 1, 'up', 1, 200, NULL, '2026-05-02'), (804, 1, 'up', 1, 200, NULL, '1971-01-01'), (804, 1, 'up', 1, 200, NULL, '1971-01-02'),
  (805, 1, 'up', 1, 200, NULL, 'infinity');
INSERT INTO incidents VALUES
  (1, 1, 1, 'One', 'd', 'ACTIVE', 'high', '2026-05-01 10:00', '2026-05-01 10:30'),
  (2, 1, 1, NULL, NULL, 'Resolved', NULL, '2026-05-01 10:00', '2026-05-01 10:30:30'),
  (3, 77, 2, 'no such user', NULL, 'closed', 'low', '2026-05-01 10:00', NULL),
  (4, 1, 3, 'monitor is an orphan', NULL, 'active', 'low', NULL, NULL),
  (5, 1, 88, 'no such monitor', NULL, 'active', 'low', NULL, NULL),
  (6, 1, 1, 'unknown status', NULL, 'Snoozed', 'low', '2026-05-01 10:00', '2026-05-01 09:00'),
  (6, 1, 1, 'id twice', NULL, 'active', 'low', NULL, NULL);
