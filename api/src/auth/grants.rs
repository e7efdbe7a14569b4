//! Grants: the operations on scopes that the claims of a token allow. By default there are none.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use serde_json::Value;

use crate::config::{self, Config, Invalid, Operation};
use crate::scope::{ProcessName, Scope};

/// The most scopes that are read from a token. They are held in memory as long as the request.
pub(super) const MAX_SCOPES: usize = 1000;
const ALL_OPERATIONS: [Operation; 3] = [Operation::Start, Operation::Read, Operation::Cancel];

/// A grant: callers whose token has the claim with this value have these rights.
struct Grant {
    claim: String,
    value: Value,
    rights: Arc<Rights>,
}

/// Operations on some processes of some scopes.
#[derive(Debug)]
pub(super) struct Rights {
    pub scopes: Names<Scope>,
    pub operations: Vec<Operation>,
    /// A list of names never includes the unnamed process; only [`Names::All`] does.
    pub processes: Names<ProcessName>,
}

/// All names, or a list of them.
#[derive(Debug)]
pub(super) enum Names<T> {
    All,
    These(HashSet<T>),
}

impl<T: Eq + Hash> Names<T> {
    fn contain(&self, name: Option<&T>) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => name.is_some_and(|name| names.contains(name)),
        }
    }
}

/// Why an operation is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The caller may do nothing in the scope.
    #[error("nothing is granted in the scope")]
    Scope,
    /// The caller may do other operations in the scope, but not this one.
    #[error("the operation is not granted in the scope, or not for the process")]
    Operation,
}

/// All grants of the settings.
pub struct Grants {
    grants: Vec<Grant>,
    scope_claim: Option<String>,
}

/// The rights of one caller.
#[derive(Debug)]
pub struct Permissions {
    granted: Vec<Arc<Rights>>,
    /// Scopes that the token lists, with all operations on all processes.
    own: HashSet<Scope>,
}

impl Grants {
    /// Refuses settings that grant nothing, and grants that must be mistakes.
    pub fn new(config: &Config) -> Result<Self, Invalid> {
        let settings = &config.auth;
        let numbered = (1..).zip(&settings.grants);
        let grants = numbered.map(|(number, grant)| parse(number, grant, config));
        let grants = grants.collect::<Result<Vec<_>, _>>()?;
        if grants.is_empty() && settings.scope_claim.is_none() {
            return Err(Invalid::new(
                "auth.grants",
                "grants nothing to any caller: name a TOML file with [[grants]] here, or set auth.scope_claim \
                 to the claim in which a token lists its scopes",
            ));
        }
        Ok(Self {
            grants,
            scope_claim: settings.scope_claim.clone(),
        })
    }

    /// The rights that these claims have together.
    pub fn of(&self, claims: &Value) -> Permissions {
        let matching = |grant: &&Grant| {
            claim(claims, &grant.claim).is_some_and(|claim| has(claim, &grant.value))
        };
        let listed = self
            .scope_claim
            .as_ref()
            .and_then(|name| claim(claims, name));
        Permissions {
            granted: self
                .grants
                .iter()
                .filter(matching)
                .map(|grant| Arc::clone(&grant.rights))
                .collect(),
            own: listed.map(scopes_in).unwrap_or_default(),
        }
    }
}

impl Permissions {
    /// The permissions without authentication.
    pub fn everything() -> Self {
        Self::of(Rights {
            scopes: Names::All,
            operations: ALL_OPERATIONS.to_vec(),
            processes: Names::All,
        })
    }

    pub(super) fn of(rights: Rights) -> Self {
        Self {
            granted: vec![Arc::new(rights)],
            own: HashSet::new(),
        }
    }

    /// Whether the operation may be done in the scope, on at least one process. This does not depend on which scopes exist, so the
    /// answer does not reveal that.
    pub fn check(&self, scope: &Scope, operation: Operation) -> Result<(), Denied> {
        self.check_where(scope, operation, |_| true)
    }

    /// Whether the operation may be done on the process in the scope; `None` is the unnamed process.
    pub fn check_process(
        &self,
        scope: &Scope,
        operation: Operation,
        process: Option<&ProcessName>,
    ) -> Result<(), Denied> {
        self.check_where(scope, operation, |rights| rights.processes.contain(process))
    }

    fn check_where(
        &self,
        scope: &Scope,
        operation: Operation,
        suffices: impl Fn(&Rights) -> bool,
    ) -> Result<(), Denied> {
        if self.own.contains(scope) {
            return Ok(());
        }
        let mut on_scope = self
            .granted
            .iter()
            .filter(|rights| rights.scopes.contain(Some(scope)))
            .peekable();
        if on_scope.peek().is_none() {
            return Err(Denied::Scope);
        }
        let allowed =
            on_scope.any(|rights| rights.operations.contains(&operation) && suffices(rights));
        if allowed {
            Ok(())
        } else {
            Err(Denied::Operation)
        }
    }
}

/// The claim of this name, or at this JSON pointer (RFC 6901) if it is nested: `/firebase/tenant`.
fn claim<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    if name.starts_with('/') {
        claims.pointer(name)
    } else {
        claims.get(name)
    }
}

/// Whether the claim is the value, or a list that contains it, as for groups and roles.
fn has(claim: &Value, value: &Value) -> bool {
    claim == value
        || claim
            .as_array()
            .is_some_and(|values| values.contains(value))
}

/// The scopes that a claim lists: an array, or one text separated by blanks. Values that are not scopes grant nothing. That
/// includes `*`, since the issuer's users may be able to influence the claim.
fn scopes_in(claim: &Value) -> HashSet<Scope> {
    let parse = |text: &str| text.parse().ok();
    match claim {
        Value::String(text) => text
            .split_whitespace()
            .filter_map(parse)
            .take(MAX_SCOPES)
            .collect(),
        Value::Array(values) => values
            .iter()
            .filter_map(|value| parse(value.as_str()?))
            .take(MAX_SCOPES)
            .collect(),
        _ => HashSet::new(),
    }
}

fn parse(number: usize, grant: &config::Grant, config: &Config) -> Result<Grant, Invalid> {
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
        [all] if all == "*" => Names::All,
        listed => Names::These(
            listed
                .iter()
                .map(|text| text.parse())
                .collect::<Result<_, _>>()
                .map_err(|error| invalid("scopes", &format!("has an invalid scope: {error}")))?,
        ),
    };
    let processes = match grant.processes.as_deref() {
        None => Names::All,
        Some([]) => {
            return Err(invalid(
                "processes",
                "must list processes, or be left out for all",
            ));
        }
        Some(listed) => {
            let known = |name: &String| {
                let known = config.processes.contains_key(name);
                ProcessName::new(name).filter(|_| known).ok_or_else(|| {
                    invalid(
                        "processes",
                        &format!("has `{name}`, which is not one of [processes]"),
                    )
                })
            };
            Names::These(listed.iter().map(known).collect::<Result<_, _>>()?)
        }
    };
    Ok(Grant {
        claim: grant.claim.clone(),
        value: grant.value.clone(),
        rights: Arc::new(Rights {
            scopes,
            operations: grant.operations.clone(),
            processes,
        }),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn grants(grants: Value, scope_claim: Option<&str>) -> Result<Grants, Invalid> {
        let mut config = Config::defaults().unwrap();
        config.auth.grants = serde_json::from_value(grants).unwrap();
        config.auth.scope_claim = scope_claim.map(str::to_owned);
        let import = serde_json::from_value(json!({})).unwrap();
        config.processes.insert("import".to_owned(), import);
        Grants::new(&config)
    }

    fn check(permissions: &Permissions, scope: &str, operation: Operation) -> Result<(), Denied> {
        permissions.check(&scope.parse().unwrap(), operation)
    }

    #[test]
    fn a_claim_matches_by_value_in_a_list_or_by_a_pointer_only() {
        let grants = grants(
            json!([
                {"claim": "sub", "value": "u1", "scopes": ["sub"], "operations": ["start"]},
                {"claim": "groups", "value": "ops", "scopes": ["groups"], "operations": ["start"]},
                {"claim": "/firebase/tenant", "value": "t", "scopes": ["nested"], "operations": ["start"]},
                {"claim": "https://example.com/admin", "value": true, "scopes": ["url"], "operations": ["start"]},
            ]),
            None,
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
                    Err(Denied::Scope)
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
    fn a_missing_operation_and_a_missing_scope_are_different_refusals() {
        let grant = |scope: &str, operation: &str| json!({"claim": "sub", "value": "u1", "scopes": [scope], "operations": [operation]});
        let grants = grants(
            json!([grant("a", "read"), grant("a", "cancel"), grant("*", "read")]),
            None,
        )
        .unwrap();
        let permissions = grants.of(&json!({"sub": "u1"}));
        assert_eq!(check(&permissions, "a", Operation::Cancel), Ok(()));
        assert_eq!(check(&permissions, "b", Operation::Read), Ok(()));
        assert_eq!(
            check(&permissions, "b", Operation::Cancel),
            Err(Denied::Operation)
        );
        assert_eq!(
            check(&grants.of(&json!({})), "a", Operation::Read),
            Err(Denied::Scope)
        );
    }

    #[test]
    fn a_grant_can_be_limited_to_some_processes() {
        let grants = grants(
            json!([
                {"claim": "sub", "value": "u1", "scopes": ["a"], "operations": ["start"], "processes": ["import"]},
                {"claim": "sub", "value": "u1", "scopes": ["a"], "operations": ["read"]},
            ]),
            None,
        )
        .unwrap();
        let permissions = grants.of(&json!({"sub": "u1"}));
        let (scope, import) = ("a".parse().unwrap(), ProcessName::new("import").unwrap());
        let other = ProcessName::new("other").unwrap();
        let check = |operation, process| permissions.check_process(&scope, operation, process);
        assert_eq!(permissions.check(&scope, Operation::Start), Ok(()));
        assert_eq!(check(Operation::Start, Some(&import)), Ok(()));
        for process in [None, Some(&other)] {
            assert_eq!(check(Operation::Start, process), Err(Denied::Operation));
            assert_eq!(check(Operation::Read, process), Ok(()));
        }
    }

    #[test]
    fn a_token_grants_the_scopes_that_it_lists_and_a_star_grants_none() {
        let grants = grants(json!([]), Some("tenants")).unwrap();
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
                Err(Denied::Scope),
                "{listed}"
            );
        }
        for nothing in [json!({"a": true}), json!(7), json!(null), json!(["a b"])] {
            let permissions = grants.of(&json!({"tenants": nothing}));
            assert_eq!(
                check(&permissions, "a", Operation::Read),
                Err(Denied::Scope),
                "{nothing}"
            );
        }
    }

    #[test]
    fn scopes_of_a_token_beyond_the_maximum_are_ignored() {
        let grants = grants(json!([]), Some("tenants")).unwrap();
        let names: Vec<_> = (0..2 * MAX_SCOPES).map(|n| format!("s{n}")).collect();
        for listed in [json!(names), json!(names.join(" "))] {
            assert_eq!(grants.of(&json!({"tenants": listed})).own.len(), MAX_SCOPES);
        }
    }

    #[test]
    fn an_invalid_grant_is_refused_with_its_number() {
        let good = json!({"claim": "sub", "value": "u1", "scopes": ["*"], "operations": ["start"]});
        assert!(grants(json!([good]), None).is_ok());
        for (field, bad) in [
            ("claim", json!("")),
            ("value", json!("")),
            ("value", json!(["u1"])),
            ("value", json!(null)),
            ("scopes", json!([])),
            ("scopes", json!(["a/b"])),
            ("scopes", json!(["a", "*"])),
            ("operations", json!([])),
            ("processes", json!([])),
            ("processes", json!(["import", "unknown"])),
        ] {
            let mut grant = good.clone();
            grant[field] = bad;
            let message = grants(json!([good, grant]), None)
                .err()
                .unwrap()
                .to_string();
            assert!(
                message.contains(&format!("`{field}` of grant 2")),
                "{message}"
            );
        }
    }
}
