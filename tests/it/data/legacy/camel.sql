-- Names as an ORM writes them, times with a zone, an enum, columns of its own, and a table spelled its own way.
CREATE TYPE "MonitorStatus" AS ENUM ('UP', 'DOWN', 'PAUSED');
CREATE TABLE users (
  id bigserial PRIMARY KEY,
  "clerkId" text NOT NULL UNIQUE,
  email text UNIQUE,
  name text,
  "avatarUrl" text,
  "stripeCustomer" text,
  preferences jsonb NOT NULL DEFAULT '{}',
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "updatedAt" timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE monitors (
  id bigserial PRIMARY KEY,
  "userId" bigint NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  name text,
  url text NOT NULL,
  status "MonitorStatus" NOT NULL DEFAULT 'UP',
  uptime varchar(20),
  "intervalSeconds" integer NOT NULL DEFAULT 60,
  "timeoutSeconds" integer,
  "isActive" boolean NOT NULL DEFAULT true,
  "responseTimeMs" integer,
  "lastCheckedAt" timestamptz,
  "sslExpiresAt" timestamptz,
  "alert""Emails" text[],
  "rawConfig" json,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "updatedAt" timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE "statusReports" (
  id bigserial PRIMARY KEY,
  "monitorId" bigint NOT NULL REFERENCES monitors (id) ON DELETE CASCADE,
  status text NOT NULL,
  "responseTime" integer,
  "statusCode" integer,
  "errorMessage" text,
  region text,
  "createdAt" timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE incidents (
  id bigserial PRIMARY KEY,
  "userId" bigint NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  "monitorId" bigint NOT NULL REFERENCES monitors (id) ON DELETE CASCADE,
  title text NOT NULL,
  status text NOT NULL DEFAULT 'active',
  "startedAt" timestamptz NOT NULL,
  "resolvedAt" timestamptz,
  "durationSeconds" integer,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  "updatedAt" timestamptz NOT NULL DEFAULT now()
);
INSERT INTO users (id, "clerkId", email, name, "stripeCustomer", preferences)
  SELECT g * 1000000007::bigint, 'user_' || g, 'p' || g || '@example.com', 'Person ' || g, CASE WHEN g % 2 = 0 THEN 'cus_' || g END, '{"theme": "dark"}'
  FROM generate_series(1, 10) g;
INSERT INTO monitors (id, "userId", name, url, status, uptime, "intervalSeconds", "timeoutSeconds", "isActive", "alert""Emails", "rawConfig")
  SELECT g * 3, (1 + g % 10) * 1000000007::bigint, CASE WHEN g % 3 <> 0 THEN 'Monitor ' || g END, 'https://c' || g || '.example.com:8443/x',
    (ARRAY['UP', 'DOWN', 'PAUSED'])[1 + g % 3]::"MonitorStatus", '99.95%', 60, CASE WHEN g = 1 THEN 100000 ELSE 5 END, g % 3 <> 2, ARRAY['a@example.com'],
    CASE WHEN g = 1 THEN '{"x": "\u0000"}' END::json
  FROM generate_series(1, 30) g;
INSERT INTO "statusReports" ("monitorId", status, "responseTime", "statusCode", region, "createdAt")
  SELECT 3 * (1 + g % 30), CASE WHEN g % 7 = 0 THEN 'DOWN' ELSE 'UP' END, g % 500, CASE WHEN g % 7 = 0 THEN 502 ELSE 200 END, 'fra', now() - g * interval '1 minute'
  FROM generate_series(1, 3000) g;
INSERT INTO incidents ("userId", "monitorId", title, status, "startedAt", "resolvedAt", "durationSeconds")
  SELECT (1 + g % 10) * 1000000007::bigint, 3 * g, 'Incident ' || g, CASE WHEN g % 2 = 0 THEN 'active' ELSE 'resolved' END, '2026-03-01 12:00:00+00',
    CASE WHEN g % 2 = 1 AND g <> 5 THEN '2026-03-01 12:10:30+00'::timestamptz END, CASE WHEN g = 5 THEN 90 WHEN g = 7 THEN 1 END
  FROM generate_series(1, 10) g;
