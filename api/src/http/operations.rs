//! The description of each route in the OpenAPI document.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::execution::Execution;
use crate::http::handlers::{events, executions, logs, process, result};
use crate::http::openapi::{Answer, Operation, SchemaOf};
use crate::http::problem::Kind;

/// Problems of every route.
const ANY: &[Kind] = &[Kind::MalformedRequest, Kind::Internal];
/// Problems of every route in a scope.
const SCOPED: &[Kind] = &[
    Kind::InvalidScope,
    Kind::Unauthenticated,
    Kind::ScopeForbidden,
    Kind::OperationForbidden,
    Kind::RateLimited,
    Kind::Overloaded,
    Kind::AuthUnavailable,
];
/// Problems of routes that change something, and are refused to pages of unknown origins.
const CHANGING: &[Kind] = &[Kind::CsrfRejected];
/// Problems of routes that call Google's APIs.
const UPSTREAM: &[Kind] = &[
    Kind::UpstreamRejected,
    Kind::UpstreamMisconfigured,
    Kind::UpstreamAuth,
    Kind::UpstreamProtocol,
    Kind::UpstreamUnavailable,
    Kind::UpstreamThrottled,
    Kind::UpstreamAuthUnavailable,
    Kind::UpstreamTimeout,
];
const STARTING: &[Kind] = &[
    Kind::ExecutionNotFound,
    Kind::MalformedJson,
    Kind::IdempotencyKeyInvalid,
    Kind::RequestTimeout,
    Kind::IdempotencyInProgress,
    Kind::ScopeBusy,
    Kind::PayloadTooLarge,
    Kind::UnsupportedMediaType,
    Kind::ValidationFailed,
    Kind::IdempotencyKeyReused,
    Kind::IdempotencyStoreUnavailable,
    Kind::StartOutcomeUnknown,
];
const ONE: &[Kind] = &[Kind::ExecutionNotFound];

const EXECUTION: (&str, SchemaOf) = (
    "application/json",
    SchemaGenerator::subschema_for::<Execution>,
);
const TEXT: (&str, SchemaOf) = ("text/plain", text);

/// OpenAPI 3.1 cannot describe a stream of events.
fn anything(_: &mut SchemaGenerator) -> Schema {
    json_schema!({})
}

fn text(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string" })
}

/// The defaults of an operation.
const PLAIN: Operation = Operation {
    id: "",
    tag: "executions",
    summary: "",
    description: "",
    query: None,
    headers: &[],
    takes_parameters: false,
    answers: &[],
    problems: &[],
};

pub const START: Operation = Operation {
    id: "startExecution",
    summary: "Start an execution",
    description: "Starts one execution of the job for the scope, with the parameters of the body, and answers as soon as \
        Cloud Run has accepted it, or with wait once it has finished. With an Idempotency-Key the same request can be repeated for 24 hours and starts only \
        one execution. A client that goes away does not stop a start that has begun.",
    query: Some(<process::Query as JsonSchema>::json_schema),
    headers: &["Idempotency-Key"],
    takes_parameters: true,
    answers: &[
        Answer {
            status: 202,
            description: "The execution was accepted, by this request or by an earlier one with the same key. Follow it at its links.",
            contents: &[EXECUTION],
            headers: &["Location", "Idempotent-Replayed"],
        },
        Answer {
            status: 200,
            description: "Nothing was started: this unfinished execution was joined (on_running=join).",
            contents: &[EXECUTION],
            headers: &["Location"],
        },
    ],
    problems: &[ANY, SCOPED, CHANGING, STARTING, UPSTREAM],
    ..PLAIN
};

pub const LIST: Operation = Operation {
    id: "listExecutions",
    summary: "List a scope's executions",
    description: "The scope's executions of all processes, newest first. A page may have fewer executions than asked for, or none, and still be followed by another.",
    query: Some(<executions::Query as JsonSchema>::json_schema),
    answers: &[Answer {
        status: 200,
        description: "A page of the executions.",
        contents: &[(
            "application/json",
            SchemaGenerator::subschema_for::<executions::Executions>,
        )],
        headers: &[],
    }],
    problems: &[ANY, SCOPED, &[Kind::ProcessNotFound], UPSTREAM],
    ..PLAIN
};

pub const SHOW: Operation = Operation {
    id: "getExecution",
    summary: "Show an execution",
    description: "One of the scope's executions as it is now, or as it is once it has ended.",
    query: Some(<executions::Wait as JsonSchema>::json_schema),
    answers: &[Answer {
        status: 200,
        description: "The execution.",
        contents: &[EXECUTION],
        headers: &[],
    }],
    problems: &[ANY, SCOPED, ONE, UPSTREAM],
    ..PLAIN
};

pub const EVENTS: Operation = Operation {
    id: "followExecution",
    summary: "Follow an execution",
    description: "The execution's changes and lines as they happen, as server-sent events: `execution` (an Execution) at first \
        and at every change, `progress` (a Progress) whenever the job reports some, `log` (a Line) for each line, and `end` after \
        the last line: the Execution with `results` (as at …/result) if there are any, and with `linesComplete`, which is false \
        if lines may be missing; a comment says so too. Comments keep the connection alive. \
        If a stream ends without `end`, request it again with the id of its last event.",
    query: Some(<events::Query as JsonSchema>::json_schema),
    headers: &["Last-Event-ID"],
    answers: &[
        Answer {
            status: 200,
            description: "The events.",
            contents: &[("text/event-stream", anything)],
            headers: &[],
        },
        Answer {
            status: 204,
            description: "The client already received the event `end`, the last one.",
            contents: &[],
            headers: &[],
        },
    ],
    problems: &[ANY, SCOPED, ONE, UPSTREAM, &[Kind::Draining]],
    ..PLAIN
};

pub const LOGS: Operation = Operation {
    id: "getLogs",
    summary: "Read an execution's lines",
    description: "The lines that the execution's tasks printed, oldest first: as JSON, or as plain text if that is asked for. Lines appear \
        a few seconds after they are printed, so that the last page may grow.",
    query: Some(<logs::Query as JsonSchema>::json_schema),
    answers: &[Answer {
        status: 200,
        description: "A page of the lines.",
        contents: &[
            (
                "application/json",
                SchemaGenerator::subschema_for::<logs::Lines>,
            ),
            TEXT,
        ],
        headers: &["Link"],
    }],
    problems: &[ANY, SCOPED, ONE, UPSTREAM],
    ..PLAIN
};

pub const RESULT: Operation = Operation {
    id: "getResult",
    summary: "Read an execution's result",
    description: "The results that the job reported (`processResult` in a line of JSON on its standard output): the last of each \
        task, up to 512 KiB in all.",
    answers: &[Answer {
        status: 200,
        description: "The results.",
        contents: &[(
            "application/json",
            SchemaGenerator::subschema_for::<result::Results>,
        )],
        headers: &[],
    }],
    problems: &[ANY, SCOPED, ONE, UPSTREAM, &[Kind::ResultNotFound]],
    ..PLAIN
};

pub const CANCEL: Operation = Operation {
    id: "cancelExecution",
    summary: "Cancel an execution",
    description: "Asks Cloud Run to cancel the execution. An execution that has finished does not change.",
    answers: &[
        Answer {
            status: 202,
            description: "Cloud Run is cancelling the execution. Follow it to see its end.",
            contents: &[EXECUTION],
            headers: &[],
        },
        Answer {
            status: 200,
            description: "The execution had already finished.",
            contents: &[EXECUTION],
            headers: &[],
        },
    ],
    problems: &[ANY, SCOPED, CHANGING, ONE, UPSTREAM],
    ..PLAIN
};

pub const DOCUMENT: Operation = Operation {
    id: "getDocument",
    tag: "service",
    summary: "This document",
    description: "The OpenAPI document of this service, with the schema of the parameters that its operator declared.",
    answers: &[Answer {
        status: 200,
        description: "The document.",
        contents: &[("application/json", object)],
        headers: &[],
    }],
    ..PLAIN
};

fn object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object" })
}

pub const PROBLEM: Operation = Operation {
    id: "explainProblem",
    tag: "service",
    summary: "Explain a problem",
    description: "Explains the type of a problem: its cause, and what to do.",
    answers: &[Answer {
        status: 200,
        description: "The explanation.",
        contents: &[TEXT],
        headers: &[],
    }],
    problems: &[&[Kind::NotFound]],
    ..PLAIN
};

pub const ALIVE: Operation = Operation {
    id: "isAlive",
    tag: "service",
    summary: "Whether the process is alive",
    description: "Answers as long as the process runs, regardless of Google's APIs.",
    answers: &[Answer {
        status: 200,
        description: "The process is alive.",
        contents: &[TEXT],
        headers: &[],
    }],
    ..PLAIN
};

pub const READY: Operation = Operation {
    id: "isReady",
    tag: "service",
    summary: "Whether executions can be started",
    description: "Whether the service has an access token, knows where the job is, has reached the store of keys if it has one, and is not about to stop.",
    answers: &[Answer {
        status: 200,
        description: "Executions can be started.",
        contents: &[TEXT],
        headers: &[],
    }],
    problems: &[&[
        Kind::Draining,
        Kind::UpstreamAuthUnavailable,
        Kind::IdempotencyStoreUnavailable,
    ]],
    ..PLAIN
};
