-- Tables that we do not know: with keys to ours, with names of ours, in other schemas; and a view.
CREATE TABLE users (id serial PRIMARY KEY, clerk_id text UNIQUE, email text NOT NULL UNIQUE);
CREATE TABLE monitors (id serial PRIMARY KEY, user_id integer NOT NULL REFERENCES users (id) ON DELETE CASCADE, url text NOT NULL, status text);
CREATE TABLE incidents (id serial PRIMARY KEY, user_id integer NOT NULL REFERENCES users (id), monitor_id integer REFERENCES monitors (id), title text, status text,
  created_at timestamp DEFAULT now(), updated_at timestamp DEFAULT now());
CREATE TABLE api_keys (id serial PRIMARY KEY, user_id integer NOT NULL REFERENCES users (id) ON DELETE CASCADE, secret text NOT NULL);
CREATE TABLE "Alert Rules" (id serial PRIMARY KEY, monitor_id integer REFERENCES monitors (id) ON DELETE SET NULL, incident_id integer REFERENCES incidents (id) DEFERRABLE INITIALLY DEFERRED,
  owner text REFERENCES users (email) ON UPDATE CASCADE);
CREATE TABLE tokens (id serial PRIMARY KEY, user_id integer REFERENCES users (id), value text);
CREATE TABLE notes (id serial PRIMARY KEY, user_id integer, body text);
CREATE SCHEMA billing;
CREATE TABLE billing.invoices (id serial PRIMARY KEY, user_id integer NOT NULL REFERENCES public.users (id), cents integer);
CREATE VIEW overview AS SELECT u.email, count(m.id) AS monitors FROM users u LEFT JOIN monitors m ON m.user_id = u.id GROUP BY 1;
INSERT INTO users (clerk_id, email) SELECT 'c' || g, 'x' || g || '@example.com' FROM generate_series(1, 4) g;
INSERT INTO monitors (user_id, url, status) SELECT 1 + g % 4, 'https://x' || g || '.example.com', 'up' FROM generate_series(1, 8) g;
INSERT INTO incidents (user_id, monitor_id, title, status) SELECT 1 + g % 4, g, 'Incident', 'active' FROM generate_series(1, 4) g;
INSERT INTO api_keys (user_id, secret) SELECT 1 + g % 4, 'key ' || g FROM generate_series(1, 6) g;
INSERT INTO "Alert Rules" (monitor_id, incident_id, owner) SELECT g, g, 'x' || g || '@example.com' FROM generate_series(1, 4) g;
INSERT INTO tokens (user_id, value) VALUES (1, 'a'), (2, 'b');
INSERT INTO notes (user_id, body) VALUES (1, 'a'), (9, 'b');
INSERT INTO billing.invoices (user_id, cents) VALUES (1, 100), (3, 250);
