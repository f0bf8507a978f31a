//! `/api/v1/openapi.json`: kept by hand, embedded, and compared with the table of routes by a test.

use hyper::StatusCode;

use super::reply::reply;
use super::routes::{Answer, Call};

/// OpenAPI 3.1.
pub const DOCUMENT: &str = include_str!("../../docs/openapi.json");

pub(super) async fn document(_: Call) -> Answer {
    Ok(reply(StatusCode::OK, "application/json", DOCUMENT))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::web::routes::{Access, ROUTES};

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    #[test]
    fn it_has_exactly_the_routes_that_are_built() {
        let built = ROUTES.iter().filter(|route| route.is_built()).flat_map(|route| {
            route.methods.iter().map(|method| format!("{} {}", method.as_str().to_lowercase(), route.pattern))
        });
        let document = document();
        let told = document["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
            item.as_object()
                .unwrap()
                .keys()
                .filter(|key| *key != "parameters")
                .map(move |method| format!("{method} {path}"))
        });
        assert_eq!(told.collect::<BTreeSet<_>>(), built.collect::<BTreeSet<_>>());
    }

    #[test]
    fn it_has_their_parameters_and_says_who_needs_a_token() {
        let document = document();
        for route in ROUTES.iter().filter(|route| route.is_built()) {
            let method = route.methods[0].as_str().to_lowercase();
            let item = &document["paths"][route.pattern][&method];
            let told: BTreeSet<&str> = item["parameters"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|parameter| resolved(&document, parameter))
                .filter(|parameter| parameter["in"] == "query")
                .map(|parameter| parameter["name"].as_str().unwrap())
                .collect();
            assert_eq!(told, route.parameters.iter().copied().collect(), "{}", route.pattern);
            let open = item["security"].as_array().is_some_and(Vec::is_empty);
            assert_eq!(open, route.access == Access::Open, "{}", route.pattern);
            assert!(item["summary"].is_string() && item["operationId"].is_string(), "{}", route.pattern);
            let responses = item["responses"].as_object().unwrap();
            assert!(responses.contains_key("200"), "{}", route.pattern);
        }
    }

    fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => document.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
            None => value,
        }
    }

    #[test]
    fn its_references_lead_somewhere() {
        fn walk(document: &Value, value: &Value) {
            if let Some(reference) = value["$ref"].as_str() {
                assert!(document.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference}");
            }
            match value {
                Value::Array(items) => items.iter().for_each(|item| walk(document, item)),
                Value::Object(members) => members.values().for_each(|item| walk(document, item)),
                _ => {}
            }
        }
        let document = document();
        assert_eq!(document["openapi"], "3.1.0");
        walk(&document, &document);
    }
}
