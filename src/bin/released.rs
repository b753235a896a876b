//! The program `released`; see `tower_released::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tower_released::cli::main()
}
