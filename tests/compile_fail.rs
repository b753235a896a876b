//! A mistake is answered with advice: programs with mistakes are compiled, and what the compiler says is read.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::process::Command;

use serde::Deserialize;

/// A program in `tests/compile_fail/src/bin`, and what a person must be told who wrote it.
const ADVICE: &[(&str, &[&str])] = &[
    (
        "closure_is_no_resolver",
        &[
            "does not find the signed-in user: it is not a `UserResolver`",
            "a closure becomes a resolver in `resolver_fn(",
        ],
    ),
    (
        "closure_returns_no_user",
        &[
            "`String` does not say who is signed in",
            "`User::new(id, email)` returns a `Result`",
        ],
    ),
    ("resolver_fn_no_user", &["`String` is not a future"]),
    (
        "not_a_minter",
        &["`&str` cannot mint", "give the layer a `ReleasedClient`"],
    ),
    (
        "missing_feature",
        &["the item is gated behind the `axum` feature"],
    ),
    (
        "strict_and_timed",
        &["no method named `timing` found for struct `ReleasedTokenLayer<FailClosed>`"],
    ),
    (
        "a_result_is_no_minter",
        &["cannot mint", "Then `?` is missing"],
    ),
    (
        "async_closure_borrows_parts",
        &["one type is more general than the other"],
    ),
    (
        "body_without_default",
        &[
            "cannot answer with a `Body`: this response body is not `Default`",
            "`TraceLayer` and `RequestBodyLimitLayer`",
        ],
    ),
];

/// A line of `cargo check --message-format=json`.
#[derive(Deserialize)]
struct Line {
    target: Option<Target>,
    message: Option<Message>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Message {
    rendered: String,
}

#[test]
fn a_mistake_is_answered_with_advice() {
    let output = Command::new(env!("CARGO"))
        .args([
            "check",
            "--manifest-path",
            "tests/compile_fail/Cargo.toml",
            "--target-dir",
            "target/compile_fail",
        ])
        .args(["--bins", "--keep-going", "--quiet", "--message-format=json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let mut said: HashMap<String, String> = HashMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let Line { target, message } = serde_json::from_str(line).unwrap();
        if let (Some(target), Some(message)) = (target, message) {
            said.entry(target.name)
                .or_default()
                .push_str(&message.rendered);
        }
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    for (program, advice) in ADVICE {
        let said = said
            .get(*program)
            .unwrap_or_else(|| panic!("{program} compiles, or nothing did: {errors}"));
        for words in *advice {
            assert!(
                said.contains(words),
                "{program} should be told {words:?}, but:\n{said}"
            );
        }
    }
}
