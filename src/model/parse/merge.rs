//! Trees laid over each other: maps merge, lists and scalars replace, a null says nothing.

use super::{Key, Node, Tree, Value};

/// One value of a merged tree and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Leaf {
    /// Path of the field.
    pub path: String,
    /// Its value.
    pub value: serde_json::Value,
    /// Its layer.
    pub layer: u16,
    /// Its line in that layer's file; 0 if there is none.
    pub line: u32,
}

/// Lays `upper` over `lower`.
pub fn merge(lower: &mut Node, upper: Node) {
    match (&mut lower.value, upper.value) {
        (_, Value::Null) => {}
        (Value::Map(below), Value::Map(above)) => {
            for (key, node) in above {
                match below.iter_mut().find(|(known, _)| known.name == key.name) {
                    Some((known, value)) => {
                        if node.value != Value::Null {
                            *known = key;
                        }
                        merge(value, node);
                    }
                    None if node.value == Value::Null => {}
                    None => below.push((key, node)),
                }
            }
            (lower.line, lower.column, lower.layer) = (upper.line, upper.column, upper.layer);
        }
        (_, value) => *lower = Node { value, ..upper },
    }
}

/// The tree without every value that is the same in `other`.
#[must_use]
pub fn without(node: &Node, other: &Node) -> Node {
    let Value::Map(entries) = &node.value else { return node.clone() };
    let kept = entries
        .iter()
        .filter_map(|(key, value)| {
            let rest = match other.get(&key.name) {
                None => value.clone(),
                Some(same) if same.canonical() == value.canonical() => return None,
                Some(same) => without(value, same),
            };
            (rest.value != Value::Null && rest.value != Value::Map(Vec::new())).then(|| (key.clone(), rest))
        })
        .collect::<Vec<(Key, Node)>>();
    Node { value: Value::Map(kept), ..node.clone_place() }
}

impl Node {
    fn clone_place(&self) -> Node {
        Node { value: Value::Null, line: self.line, column: self.column, layer: self.layer }
    }
}

impl Tree {
    /// Every value that is not a map, with its origin, in the order of the tree. A list is one value.
    #[must_use]
    pub fn leaves(&self) -> Vec<Leaf> {
        let mut leaves = Vec::new();
        collect(&self.root, String::new(), &mut leaves);
        leaves
    }
}

fn collect(node: &Node, path: String, leaves: &mut Vec<Leaf>) {
    match &node.value {
        Value::Map(entries) => {
            for (key, value) in entries {
                let path = if path.is_empty() { key.name.clone() } else { format!("{path}.{}", key.name) };
                collect(value, path, leaves);
            }
        }
        Value::Null => {}
        Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::List(_) => {
            leaves.push(Leaf { path, value: node.canonical(), layer: node.layer, line: node.line });
        }
    }
}
