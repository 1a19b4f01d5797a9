//! The JSON Schemas are what was reviewed, and know every key that the types know.

use hyper2kvm::model::schema::{SchemaKind, schema};

use crate::golden;

#[test]
fn schemas_are_what_was_reviewed() {
    for kind in SchemaKind::ALL {
        let text = serde_json::to_string_pretty(&schema(kind)).unwrap() + "\n";
        golden::check(&format!("golden/{}.schema.json", kind.name()), &text);
    }
}

#[test]
fn schemas_refuse_unknown_keys_where_people_write() {
    for kind in [SchemaKind::Manifest, SchemaKind::Batch, SchemaKind::Profile, SchemaKind::Config] {
        assert_eq!(schema(kind)["additionalProperties"], false, "{}", kind.name());
    }
}

#[test]
fn a_schema_is_found_by_its_name_only() {
    for kind in SchemaKind::ALL {
        assert_eq!(SchemaKind::parse(kind.name()).unwrap(), kind);
    }
    assert!(SchemaKind::parse("Manifest").is_err());
}
