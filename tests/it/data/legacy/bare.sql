-- As little as can be upgraded.
CREATE TABLE users (id integer PRIMARY KEY);
CREATE TABLE monitors (id integer PRIMARY KEY, url text);
INSERT INTO users VALUES (1), (2);
INSERT INTO monitors VALUES (1, 'https://bare.example.com/'), (2, NULL);
