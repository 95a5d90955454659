//! The files of `deploy` speak of this server: every figure they show is in the table, every flag and variable they
//! set exists.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::CommandFactory;
use serde_json::Value;
use whisperwire::config::Cli;
use whisperwire::telemetry::table::{Kind, TABLE};

fn deployed(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every name in a text that begins like this.
fn names(text: &str, prefix: &str) -> BTreeSet<String> {
    let part_of_a_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let starts = text.match_indices(prefix).filter(|(at, _)| !text[..*at].ends_with(part_of_a_name));
    starts.map(|(at, _)| text[at..].chars().take_while(|c| part_of_a_name(*c)).collect()).collect()
}

/// All names under which Prometheus knows the figures of the table.
fn series() -> BTreeSet<String> {
    let of = |row: &&whisperwire::telemetry::table::Row| -> Vec<String> {
        match row.kind {
            Kind::Histogram => ["_bucket", "_sum", "_count"].map(|end| format!("{}{end}", row.name)).into(),
            _ => vec![row.name.to_owned()],
        }
    };
    TABLE.iter().flat_map(of).collect()
}

#[test]
fn the_dashboard_and_the_alerts_show_figures_of_the_table() {
    let known = series();
    let dashboard: Value = serde_json::from_str(&deployed("grafana/dashboard.json")).expect("JSON");
    let mut queries = String::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            queries.push_str(target["expr"].as_str().expect("a query"));
            queries.push('\n');
        }
    }
    let shown = names(&queries, "whisperwire_");
    let unknown: Vec<&String> = shown.difference(&known).collect();
    assert!(unknown.is_empty(), "the dashboard shows {unknown:?}");
    let hidden: Vec<&str> = TABLE
        .iter()
        .map(|row| row.name)
        .filter(|name| !shown.iter().any(|shown| shown.trim_end_matches("_bucket") == *name))
        .collect();
    assert!(hidden.is_empty(), "the dashboard lacks {hidden:?}");

    let alerts = names(&deployed("prometheus/alerts.yaml"), "whisperwire_");
    let unknown: Vec<&String> = alerts.difference(&known).collect();
    assert!(alerts.len() > 5 && unknown.is_empty(), "the alerts watch {unknown:?}");
}

#[test]
fn flags_and_variables_exist() {
    let mut command = Cli::command();
    command.build();
    let serve = command.find_subcommand("serve").expect("there is a server");
    let flags: BTreeSet<String> =
        serve.get_arguments().filter_map(|arg| Some(format!("--{}", arg.get_long()?))).collect();
    let variables: BTreeSet<String> =
        serve.get_arguments().filter_map(|arg| Some(arg.get_env()?.to_str()?.to_owned())).collect();

    let mut found = 0;
    for file in ["Dockerfile", "Dockerfile.cuda", "compose.yaml", "whisperwire.service"] {
        let text = deployed(file);
        let named = names(&text, "WHISPERWIRE_");
        let unknown: Vec<&String> = named.difference(&variables).collect();
        assert!(unknown.is_empty(), "{file} sets {unknown:?}");
        // What stands behind `whisperwire serve` is for it; other programs have flags of their own.
        for line in text.lines().filter_map(|line| line.split_once("whisperwire serve")) {
            let unknown: Vec<String> = names(line.1, "--").difference(&flags).cloned().collect();
            assert!(unknown.is_empty(), "{file} gives {unknown:?}");
            found += names(line.1, "--").len();
        }
        found += named.len();
    }
    assert!(found > 10, "the files were not understood");
}

#[test]
fn whoever_stops_the_server_waits_for_its_grace() {
    let number = |text: &str, before: &str| -> u64 {
        let rest = text.split_once(before).unwrap_or_else(|| panic!("no {before}")).1;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().expect("a number")
    };
    let unit = deployed("whisperwire.service");
    assert!(number(&unit, "TimeoutStopSec=") > number(&unit, "--drain-delay ") + number(&unit, "--grace "));
    let compose = deployed("compose.yaml");
    let (delay, grace) =
        (number(&compose, "WHISPERWIRE_DRAIN_DELAY: \""), number(&compose, "WHISPERWIRE_GRACE: \""));
    assert!(number(&compose, "stop_grace_period: ") > delay + grace);
}
