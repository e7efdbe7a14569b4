//! What the claims of a token grant: operations on scopes. Nothing by default.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;

use crate::config::{self, Invalid, Operation};
use crate::http::problem::Kind;
use crate::scope::Scope;

const ALL_OPERATIONS: [Operation; 3] = [Operation::Start, Operation::Read, Operation::Cancel];

/// Who may do what: whoever has the claim with the value may do the operations to the scopes.
#[derive(Debug)]
struct Grant {
    claim: String,
    value: Value,
    scopes: Scopes,
    operations: Vec<Operation>,
}

#[derive(Debug)]
enum Scopes {
    All,
    These(HashSet<Scope>),
}

impl Scopes {
    fn contain(&self, scope: &Scope) -> bool {
        match self {
            Self::All => true,
            Self::These(scopes) => scopes.contains(scope),
        }
    }
}

/// Everything that the settings grant.
pub struct Grants {
    grants: Vec<Arc<Grant>>,
    scope_claim: Option<String>,
}

/// What one caller was granted.
#[derive(Debug)]
pub struct Permissions {
    granted: Vec<Arc<Grant>>,
    /// Scopes that the token itself lists: all operations.
    own: Vec<Scope>,
}

impl Grants {
    /// Refuses settings that grant nothing to anybody, or something that cannot be meant.
    pub fn new(settings: &config::Auth) -> Result<Self, Invalid> {
        let scope_claim = Some(settings.scope_claim.clone()).filter(|claim| !claim.is_empty());
        let numbered = (1..).zip(&settings.grants);
        let grants = numbered.map(|(number, grant)| parse(number, grant).map(Arc::new));
        let grants = grants.collect::<Result<Vec<_>, _>>()?;
        if grants.is_empty() && scope_claim.is_none() {
            return Err(Invalid::new(
                "auth.grants",
                "nobody may do anything: name a TOML file with [[grants]] here, or set auth.scope_claim \
                 to the claim in which a token lists its scopes",
            ));
        }
        Ok(Self {
            grants,
            scope_claim,
        })
    }

    /// What these claims grant together.
    pub fn of(&self, claims: &Value) -> Permissions {
        let matching = |grant: &&Arc<Grant>| {
            claim(claims, &grant.claim).is_some_and(|claim| has(claim, &grant.value))
        };
        let listed = self
            .scope_claim
            .as_ref()
            .and_then(|name| claim(claims, name));
        Permissions {
            granted: self.grants.iter().filter(matching).cloned().collect(),
            own: listed.map(scopes_in).unwrap_or_default(),
        }
    }
}

impl Permissions {
    /// Where nobody asks who calls.
    pub fn everything() -> Self {
        let everything = Grant {
            claim: String::new(),
            value: Value::Null,
            scopes: Scopes::All,
            operations: ALL_OPERATIONS.to_vec(),
        };
        Self {
            granted: vec![Arc::new(everything)],
            own: Vec::new(),
        }
    }

    /// Whether the operation may be done to the scope. Knows nothing of which scopes exist, and so cannot tell.
    pub fn check(&self, scope: &Scope, operation: Operation) -> Result<(), Kind> {
        if self.own.contains(scope) {
            return Ok(());
        }
        let mut on_scope = self
            .granted
            .iter()
            .filter(|grant| grant.scopes.contain(scope))
            .peekable();
        if on_scope.peek().is_none() {
            return Err(Kind::ScopeForbidden);
        }
        match on_scope.any(|grant| grant.operations.contains(&operation)) {
            true => Ok(()),
            false => Err(Kind::OperationForbidden),
        }
    }
}

/// A claim by its name, or by a JSON pointer (RFC 6901) if it lies in another: `/firebase/tenant`.
fn claim<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    match name.starts_with('/') {
        true => claims.pointer(name),
        false => claims.get(name),
    }
}

/// Whether the claim is the value, or a list with it, as groups and roles are.
fn has(claim: &Value, value: &Value) -> bool {
    claim == value
        || claim
            .as_array()
            .is_some_and(|values| values.contains(value))
}

/// The scopes that a claim lists: an array, or one text with blanks between them. What is no scope is not granted:
/// `*` least of all, for the issuer's users may have a say in what stands there.
fn scopes_in(claim: &Value) -> Vec<Scope> {
    let parse = |text: &str| text.parse().ok();
    match claim {
        Value::String(text) => text.split_whitespace().filter_map(parse).collect(),
        Value::Array(values) => values
            .iter()
            .filter_map(|value| parse(value.as_str()?))
            .collect(),
        _ => Vec::new(),
    }
}

fn parse(number: usize, grant: &config::Grant) -> Result<Grant, Invalid> {
    let invalid = |field: &str, cure: &str| {
        Invalid::new("auth.grants", format!("`{field}` of grant {number} {cure}"))
    };
    if grant.claim.is_empty() {
        return Err(invalid(
            "claim",
            "must name a claim of the token, such as sub, email or hd",
        ));
    }
    let empty = grant.value.as_str().is_some_and(str::is_empty);
    if empty || !(grant.value.is_string() || grant.value.is_boolean() || grant.value.is_number()) {
        return Err(invalid("value", "must be a text, a number, true or false"));
    }
    if grant.operations.is_empty() {
        return Err(invalid(
            "operations",
            "must list some of start, read, cancel",
        ));
    }
    let scopes = match &grant.scopes[..] {
        [] => return Err(invalid("scopes", "must list scopes, or be [\"*\"] for all")),
        [all] if all == "*" => Scopes::All,
        listed => Scopes::These(
            listed
                .iter()
                .map(|text| text.parse())
                .collect::<Result<_, _>>()
                .map_err(|error| invalid("scopes", &format!("has what is no scope: {error}")))?,
        ),
    };
    Ok(Grant {
        claim: grant.claim.clone(),
        value: grant.value.clone(),
        scopes,
        operations: grant.operations.clone(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn grants(grants: Value, scope_claim: &str) -> Result<Grants, Invalid> {
        let mut settings = config::Config::defaults().unwrap().auth;
        settings.grants = serde_json::from_value(grants).unwrap();
        settings.scope_claim = scope_claim.to_owned();
        Grants::new(&settings)
    }

    fn check(permissions: &Permissions, scope: &str, operation: Operation) -> Result<(), Kind> {
        permissions.check(&scope.parse().unwrap(), operation)
    }

    #[test]
    fn a_claim_matches_as_itself_in_a_list_or_by_a_pointer_and_by_nothing_else() {
        let grants = grants(
            json!([
                {"claim": "sub", "value": "u1", "scopes": ["sub"], "operations": ["start"]},
                {"claim": "groups", "value": "ops", "scopes": ["groups"], "operations": ["start"]},
                {"claim": "/firebase/tenant", "value": "t", "scopes": ["nested"], "operations": ["start"]},
                {"claim": "https://example.com/admin", "value": true, "scopes": ["url"], "operations": ["start"]},
            ]),
            "",
        )
        .unwrap();
        let cases = [
            (json!({"sub": "u1"}), Some("sub")),
            (json!({"sub": "U1"}), None),
            (json!({"sub": "u1 "}), None),
            (json!({"groups": ["dev", "ops"]}), Some("groups")),
            (json!({"groups": "ops"}), Some("groups")),
            (json!({"groups": "dev ops"}), None),
            (json!({"groups": [["ops"]]}), None),
            (json!({"firebase": {"tenant": "t"}}), Some("nested")),
            (json!({"/firebase/tenant": "t"}), None),
            (json!({"https://example.com/admin": true}), Some("url")),
            (json!({"https://example.com/admin": "true"}), None),
            (json!({}), None),
        ];
        for (claims, granted) in cases {
            let permissions = grants.of(&claims);
            for scope in ["sub", "groups", "nested", "url"] {
                let expected = if granted == Some(scope) {
                    Ok(())
                } else {
                    Err(Kind::ScopeForbidden)
                };
                assert_eq!(
                    check(&permissions, scope, Operation::Start),
                    expected,
                    "{claims} {scope}"
                );
            }
        }
    }

    #[test]
    fn a_scope_with_another_operation_is_told_from_a_scope_with_none() {
        let grant = |scope: &str, operation: &str| json!({"claim": "sub", "value": "u1", "scopes": [scope], "operations": [operation]});
        let grants = grants(
            json!([grant("a", "read"), grant("a", "cancel"), grant("*", "read")]),
            "",
        )
        .unwrap();
        let permissions = grants.of(&json!({"sub": "u1"}));
        assert_eq!(check(&permissions, "a", Operation::Cancel), Ok(()));
        assert_eq!(check(&permissions, "b", Operation::Read), Ok(()));
        assert_eq!(
            check(&permissions, "b", Operation::Cancel),
            Err(Kind::OperationForbidden)
        );
        assert_eq!(
            check(&grants.of(&json!({})), "a", Operation::Read),
            Err(Kind::ScopeForbidden)
        );
    }

    #[test]
    fn a_token_lists_its_scopes_and_a_star_is_none() {
        let grants = grants(json!([]), "tenants").unwrap();
        for listed in [
            json!("a b"),
            json!(["a", "b"]),
            json!(["*", 7, null, "a", "../b", "b"]),
            json!("* a b"),
        ] {
            let permissions = grants.of(&json!({"tenants": listed}));
            for scope in ["a", "b"] {
                assert_eq!(
                    check(&permissions, scope, Operation::Cancel),
                    Ok(()),
                    "{listed}"
                );
            }
            assert_eq!(
                check(&permissions, "c", Operation::Read),
                Err(Kind::ScopeForbidden),
                "{listed}"
            );
        }
        for nothing in [json!({"a": true}), json!(7), json!(null), json!(["a b"])] {
            let permissions = grants.of(&json!({"tenants": nothing}));
            assert_eq!(
                check(&permissions, "a", Operation::Read),
                Err(Kind::ScopeForbidden),
                "{nothing}"
            );
        }
    }

    #[test]
    fn grants_that_cannot_be_meant_are_refused_with_their_number() {
        let good = json!({"claim": "sub", "value": "u1", "scopes": ["*"], "operations": ["start"]});
        assert!(grants(json!([good]), "").is_ok());
        for (field, bad) in [
            ("claim", json!("")),
            ("value", json!("")),
            ("value", json!(["u1"])),
            ("value", json!(null)),
            ("scopes", json!([])),
            ("scopes", json!(["a/b"])),
            ("scopes", json!(["a", "*"])),
            ("operations", json!([])),
        ] {
            let mut grant = good.clone();
            grant[field] = bad;
            let message = grants(json!([good, grant]), "").err().unwrap().to_string();
            assert!(
                message.contains(&format!("`{field}` of grant 2")),
                "{message}"
            );
        }
    }
}
