use tower_released::{from_extractor, token_endpoint};

fn main() {}
