use crate::maintenance::definition::FileMaintenance;
use crate::settings::tests::{heads, read};

const MONITORS: &str =
    "[[monitor]]\nid = \"shop\"\nurl = \"https://shop.example/\"\n[[monitor]]\nid = \"gateway\"\nurl = \"tcp://h:1\"\n";

fn one(table: &str) -> FileMaintenance {
    let text = format!("{MONITORS}[[maintenance]]\nid = \"w\"\n{table}\n");
    let settings = read(&text).unwrap_or_else(|refusal| panic!("{refusal}"));
    settings.maintenances[0].clone()
}

fn found(table: &str) -> Vec<String> {
    heads(&format!("{MONITORS}[[maintenance]]\nid = \"w\"\n{table}\n"))
}

#[test]
fn a_start_is_local_or_has_its_offset() {
    for (starts_at, utc) in [
        ("2026-11-29T02:00:00", "2026-11-29T01:00:00"),
        ("\"2026-11-29T02:00\"", "2026-11-29T01:00:00"),
        ("\"2026-07-01 02:00:00\"", "2026-07-01T00:00:00"),
        ("2026-07-01T02:00:00Z", "2026-07-01T02:00:00"),
        ("\"2026-07-01T02:00:00-05:00\"", "2026-07-01T07:00:00"),
        // Twice on the clock: the first time round.
        ("2026-10-25T02:30:00", "2026-10-25T00:30:00"),
    ] {
        let read = one(&format!("starts_at = {starts_at}\ntimezone = \"Europe/Berlin\"\nduration = \"2h\""));
        assert_eq!(read.starts_at.format("%FT%T").to_string(), utc, "{starts_at}");
    }
    let read = one("starts_at = 2026-11-29T02:00:00\nduration = \"90m\"");
    let seen = (&*read.name, read.zone, read.duration_seconds, read.excluded, read.monitors.len(), read.tags.len());
    assert_eq!(seen, ("w", chrono_tz::UTC, 5400, true, 0, 0));
    let read = one(
        "starts_at = 2026-11-29T02:00:00\nduration = \"2h\"\nmonitors = [\"shop\"]\ntags = [\"prod\"]\nname = \"Night\"\n\
         description = \"Reboots\"\nrrule = \"FREQ=WEEKLY\"\nexclude_from_uptime = false",
    );
    assert_eq!((&*read.name, read.description.as_deref(), read.excluded), ("Night", Some("Reboots"), false));
    assert_eq!(
        (read.monitors[0].as_str(), &*read.tags[0], read.rrule.as_deref()),
        ("shop", "prod", Some("FREQ=WEEKLY"))
    );
}

#[test]
fn every_mistake_is_told_at_its_place() {
    let good = "starts_at = 2026-11-29T02:00:00\nduration = \"2h\"\n";
    for (table, said) in [
        ("duration = \"2h\"", "c.toml:7:1: maintenance[0].starts_at: is missing"),
        ("starts_at = 2026-11-29T02:00:00", "c.toml:7:1: maintenance[0].duration: is missing"),
        ("starts_at = 2026-11-29\nduration = \"2h\"", "c.toml:9:13: maintenance[0].starts_at: is no time"),
        ("starts_at = \"soon\"\nduration = \"2h\"", "c.toml:9:13: maintenance[0].starts_at: is no time"),
        ("starts_at = 7\nduration = \"2h\"", "c.toml:9:13: maintenance[0].starts_at: found an integer"),
        (
            "starts_at = 1999-01-01T00:00:00\nduration = \"2h\"",
            "c.toml:9:13: maintenance[0].starts_at: must be in the years 2000 to 2199",
        ),
        (
            "starts_at = 2026-03-29T02:30:00\ntimezone = \"Europe/Berlin\"\nduration = \"2h\"",
            "c.toml:9:13: maintenance[0].starts_at: 2026-03-29T02:30:00 is not there in Europe/Berlin: the clock skips it, \
             2026-03-29T03:30:00 is the same moment",
        ),
        (
            "starts_at = 2026-11-29T02:00:00\nduration = \"0s\"",
            "c.toml:10:12: maintenance[0].duration: \"0s\" is out of range",
        ),
        (
            &format!("{good}timezone = \"Europe/Berln\""),
            "c.toml:11:12: maintenance[0].timezone: unknown time zone \"Europe/Berln\", did you mean \"Europe/Berlin\"?",
        ),
        (&format!("{good}rrule = \"FREQ=SECONDLY\""), "c.toml:11:9: maintenance[0].rrule: FREQ=SECONDLY is too fine"),
        (
            &format!("{good}monitors = []"),
            "c.toml:11:12: maintenance[0].monitors: is empty, leave it out to mean all monitors",
        ),
        (&format!("{good}tags = []"), "c.toml:11:8: maintenance[0].tags: is empty"),
        (
            &format!("{good}monitors = [\"shop\", \"gatewy\"]"),
            "c.toml:11:21: maintenance[0].monitors[1]: no monitor has the id \"gatewy\", did you mean \"gateway\"?",
        ),
        (&format!("{good}monitors = [\"A b\"]"), "c.toml:11:13: maintenance[0].monitors[0]: \"A b\" is no id"),
        (&format!("{good}monitors = [\"shop\", 7]"), "c.toml:11:21: maintenance[0].monitors[1]: found an integer"),
        (
            &format!("{good}monitor = [\"shop\"]"),
            "c.toml:11:1: maintenance[0].monitor: unknown key, did you mean \"monitors\"?",
        ),
        (&format!("{good}[[maintenance]]\nid = \"w\"\n{good}"), "c.toml:12:6: maintenance[1].id: \"w\" stands twice"),
        (&format!("{good}[[maintenance]]\n{good}"), "c.toml:11:1: maintenance[1].id: is missing"),
        ("starts_at = 2026-11-29T02:00:00\nduration = \"2h\"\nduration = \"3h\"", "c.toml:11:1:"),
    ] {
        let found = found(table);
        assert!(found.len() == 1 && found[0].starts_with(said), "{table}: {found:?}");
    }
    // Whatever is wrong with one part hides nothing of another.
    let (at, rule) = ("starts_at = 2026-11-29T02:00:00\n", "rrule = \"FREQ=SECONDLY\"\n");
    let never = "rrule = \"FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30\"\n";
    for (table, said) in [
        (
            format!("{at}duration = \"0s\"\n{rule}"),
            ["10:12: maintenance[0].duration", "11:9: maintenance[0].rrule: FREQ"],
        ),
        (
            format!("{at}duration = \"0s\"\n{never}"),
            ["10:12: maintenance[0].duration", "11:9: maintenance[0].rrule: never"],
        ),
        (format!("{at}{rule}"), ["7:1: maintenance[0].duration: is missing", "10:9: maintenance[0].rrule: FREQ"]),
        (
            format!("duration = \"2h\"\n{rule}"),
            ["7:1: maintenance[0].starts_at: is missing", "10:9: maintenance[0].rrule: FREQ"],
        ),
        (
            format!("starts_at = 1999-01-01T00:00:00\nduration = \"2h\"\n{rule}"),
            ["9:13: maintenance[0].starts_at: must be in the years", "11:9: maintenance[0].rrule: FREQ"],
        ),
        (
            format!("{good}timezone = \"Berlin\"\n{rule}"),
            ["11:12: maintenance[0].timezone: unknown time zone", "12:9: maintenance[0].rrule: FREQ"],
        ),
    ] {
        let found = found(&table);
        assert_eq!(found.len(), 2, "{table}: {found:?}");
        for said in said {
            assert!(found.iter().any(|found| found.starts_with(&format!("c.toml:{said}"))), "{table}: {found:?}");
        }
    }
    let all = found(
        "name = \"\"\ntags = [\"\"]\nmonitors = [\"nobody\", \"A b\"]\nduration = \"0s\"\nrrule = \"x\"\nthing = 1",
    );
    assert!(all.len() >= 7, "{all:?}");
    let several = found("starts_at = 7\nduration = 8\nrrule = 9\nname = \"\"");
    assert_eq!(several.len(), 4, "{several:?}");
    assert_eq!(heads("[maintenance]\nid = \"w\"\n").len(), 1);
}
