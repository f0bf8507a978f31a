use std::path::Path;
use std::time::Duration;

use crate::model::Plan;
use crate::settings::diagnostic::SourceText;
use crate::settings::model::{Environment, Refusal, Settings, read};

fn of(text: &str) -> Result<Settings, Refusal> {
    let environment = Environment { variable: &|_| None, credentials: None };
    read(&[SourceText::new("c.toml", text)], Path::new("/nowhere"), environment, &[])
}

#[test]
fn plans_limit_monitors() {
    let keeping = of("[plans.free]\nmax_monitors = 5\nmin_interval = \"5m\"\n[plans.pro]\n").unwrap().keeping;
    let free = Plan { retention: None, max_monitors: Some(5), min_interval: Some(Duration::from_secs(300)) };
    assert_eq!((keeping.plans["free"], keeping.plans["pro"]), (free, Plan::default()));
    assert_eq!(of("[plans.none]\nmax_monitors = 0").unwrap().keeping.plans["none"].max_monitors, Some(0));
}

#[test]
fn limits_have_bounds() {
    for (line, wanted) in [
        ("max_monitors = -1", "max_monitors: -1 is out of range, must be 0 to 250000"),
        ("max_monitors = 250001", "max_monitors: 250001 is out of range, must be 0 to 250000"),
        ("max_monitors = \"5\"", "max_monitors: found a string, must be an integer"),
        ("min_interval = \"1500ms\"", "min_interval: has a fraction of a second, must be whole seconds"),
        ("min_interval = \"2d\"", "min_interval: \"2d\" is out of range, must be 1s to 1d"),
    ] {
        let refusal = of(&format!("[plans.free]\n{line}")).map(|_| ()).unwrap_err().to_string();
        assert!(refusal.contains(&format!("c.toml:2:16: plans.free.{wanted}")), "{line}: {refusal}");
    }
}
