use std::{collections::HashMap, sync::OnceLock};
/// tuning only
pub fn knob(name: &'static str, default: f64) -> f64 {
    static K: OnceLock<HashMap<String, f64>> = OnceLock::new();
    *K.get_or_init(|| std::env::vars().filter_map(|(k, v)| Some((k.strip_prefix("K_")?.to_owned(), v.parse().ok()?))).collect())
        .get(name).unwrap_or(&default)
}
