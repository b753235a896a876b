//! The guide on monitoring names every event, and no metric that is not there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const GUIDE: &str = include_str!("../../src/docs/monitoring.md");

/// The level of an event, and the first clause of its message.
type Events = BTreeSet<(&'static str, String)>;

/// Up to the first mark that ends a clause, or to what a value is put into.
fn first_clause(message: &str) -> String {
    let end = message.find([',', ';', ':', '{', '…']);
    message[..end.unwrap_or(message.len())].trim().to_owned()
}

/// Adds the events of each Rust file in this folder, as its calls of the macros have them.
fn add_events_of(folder: &Path, events: &mut Events) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            add_events_of(&path, events);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            add_events_in(&fs::read_to_string(path).unwrap(), events);
        }
    }
}

fn add_events_in(file: &str, events: &mut Events) {
    let (code, _tests) = file.split_once("#[cfg(test)]\nmod ").unwrap_or((file, ""));
    let code: String = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| format!("{line}\n"))
        .collect();
    for level in ["error", "warn", "info"] {
        for (start, call) in code.match_indices(&format!("{level}!(")) {
            let is_whole_name =
                !code[..start].ends_with(|end: char| end == '_' || end.is_alphanumeric());
            if is_whole_name {
                events.insert((
                    level,
                    first_clause(&message_of(&code[start + call.len()..])),
                ));
            }
        }
    }
    // Their level would be a value.
    for other in ["event!(", "span!(tracing::Level", "log::"] {
        assert!(
            !code.contains(other),
            "this test does not understand {other}"
        );
    }
}

/// The last text of a call: those before it are names and values of fields. A line break in it is removed, as the
/// compiler does.
fn message_of(arguments: &str) -> String {
    let mut depth = 1;
    let (mut text, mut last) = (None::<String>, String::new());
    let mut characters = arguments.chars();
    while let Some(character) = characters.next() {
        match (&mut text, character) {
            (None, '"') => text = Some(String::new()),
            (None, '(') => depth += 1,
            (None, ')') => {
                depth -= 1;
                if depth == 0 {
                    return last;
                }
            }
            (None, _) => {}
            (Some(text), '\\') => match characters.next().unwrap() {
                '\n' => {
                    let rest = characters.as_str().trim_start();
                    characters = rest.chars();
                }
                escaped => text.push(escaped),
            },
            (Some(_), '"') => last = text.take().unwrap(),
            (Some(text), character) => text.push(character),
        }
    }
    panic!("the call has no end: {arguments}");
}

#[test]
fn the_guide_lists_every_event_of_level_info_and_above_and_no_other() {
    let mut logged = Events::new();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    add_events_of(&sources, &mut logged);
    assert!(logged.len() >= 19, "{logged:#?}");

    let mut listed = Events::new();
    for level in ["error", "warn", "info"] {
        let row = format!("| {level} | `");
        let rows = GUIDE.lines().filter_map(|line| line.strip_prefix(&row));
        listed.extend(rows.map(|row| (level, first_clause(row.split('`').next().unwrap()))));
    }
    let missing: Vec<_> = logged.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&logged).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "not in the guide: {missing:#?}\nonly in the guide: {gone:#?}"
    );
}

#[cfg(feature = "metrics")]
mod prometheus {
    use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
    use tower_released::testing::{FakeReleased, StubMinter};
    use tower_released::{ReleasedClient, ReleasedTokenLayer};

    use super::GUIDE;
    use crate::support::{ada, by_header};

    /// What Prometheus gets after a client and a layer were built, and after one mint.
    fn rendered() -> (String, String) {
        let duration = Matcher::Full("released_mint_duration_seconds".to_owned());
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(duration, &[0.1, 1.0])
            .unwrap()
            .build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let _layer = ReleasedTokenLayer::new(StubMinter::new(), by_header());
            let idle = ReleasedClient::builder("acc", "s3cret")
                .endpoint("http://127.0.0.1:9/")
                .build()
                .unwrap();
            let at_start = handle.render();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let released = FakeReleased::start().await.unwrap();
                released.client().unwrap().mint(&ada()).await.unwrap();
            });
            drop(idle);
            (at_start, handle.render())
        })
    }

    /// The guide's queries: in the table of the dashboard, and in the rules.
    fn queries() -> Vec<String> {
        let (_, dashboard) = GUIDE.split_once("| panel | query |").unwrap();
        let (dashboard, alerts) = dashboard.split_once("\n\n").unwrap();
        let panels = dashboard
            .lines()
            .filter_map(|line| line.split('`').nth(1))
            .map(str::to_owned);
        let (_, rules) = alerts.split_once("```yaml\n").unwrap();
        let (rules, _) = rules.split_once("```").unwrap();
        let expressions = rules
            .split("expr: ")
            .skip(1)
            .map(|rule| rule.split(" labels: ").next().unwrap())
            .map(|rule| rule.split(" for: ").next().unwrap().to_owned());
        panels.chain(expressions).collect()
    }

    /// Each metric of a query, with its matchers.
    fn selectors(query: &str) -> Vec<(&str, Vec<(&str, &str)>)> {
        query
            .match_indices("released_")
            .map(|(start, _)| {
                let rest = &query[start..];
                let end = rest
                    .find(|end: char| !end.is_ascii_lowercase() && end != '_')
                    .unwrap_or(rest.len());
                let (name, rest) = rest.split_at(end);
                let matchers = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
                let matchers = matchers.map_or("", |(matchers, _)| matchers);
                let matchers = matchers
                    .split(',')
                    .filter(|matcher| !matcher.trim().is_empty())
                    .flat_map(|matcher| {
                        let (label, value) = matcher.split_once(['=', '!']).unwrap();
                        let value = value
                            .trim()
                            .trim_start_matches(['=', '~'])
                            .trim_matches('"');
                        value.split('|').map(move |value| (label.trim(), value))
                    })
                    .collect();
                (name, matchers)
            })
            .collect()
    }

    #[test]
    fn every_query_of_the_guide_is_about_what_prometheus_gets_from_the_start() {
        let (at_start, after_a_mint) = rendered();
        let queries = queries();
        assert_eq!(queries.len(), 8 + 3, "{queries:#?}");
        for query in &queries {
            let selectors = selectors(query);
            assert!(!selectors.is_empty(), "{query}");
            for (name, matchers) in selectors {
                // The histogram appears with the first mint of an outcome.
                let is_histogram = name.starts_with("released_mint_duration_seconds");
                let rendered = if is_histogram {
                    &after_a_mint
                } else {
                    &at_start
                };
                let has = |label: &str| {
                    rendered.lines().any(|line| {
                        let rest = line.strip_prefix(name);
                        rest.is_some_and(|rest| {
                            rest.starts_with(['{', ' ']) && rest.contains(label)
                        })
                    })
                };
                assert!(has(""), "{name} of {query} is not in\n{rendered}");
                for (label, value) in matchers {
                    let label = format!("{label}=\"{value}\"");
                    assert!(has(&label), "{name} has no {label}: {query}");
                }
                let by = query
                    .split("by (")
                    .nth(1)
                    .and_then(|by| by.split(')').next());
                for label in by.into_iter().flat_map(|by| by.split(", ")) {
                    // Prometheus adds the instance.
                    assert!(
                        label == "instance" || has(&format!("{label}=\"")),
                        "{label}: {query}"
                    );
                }
            }
        }
        assert!(
            at_start
                .lines()
                .filter(|line| !line.starts_with('#') && !line.is_empty())
                .all(|line| line.ends_with(" 0")),
            "{at_start}"
        );
    }
}
