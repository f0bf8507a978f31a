-- Why: a plan limits the monitors of its users, so the daemon must hear when a user gets another one.
-- What older code sees: one more wake-up, after which it compares rows and finds nothing.

CREATE TRIGGER lamplighter_notify_plan AFTER UPDATE OF plan ON users FOR EACH ROW
WHEN (OLD.plan IS DISTINCT FROM NEW.plan) EXECUTE FUNCTION lamplighter_notify();
