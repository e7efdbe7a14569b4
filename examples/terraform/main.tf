# The same resources, roles and flags as build-deploy-job.sh and build-deploy-api.sh with AUTH=iam and STORE=firestore: a test
# compares them. The images are built and pushed elsewhere, and named by digest:
#   terraform init
#   terraform apply -var project=… -var region=… -var job_image=…@sha256:… -var api_image=…@sha256:…
# A project that has a Firestore database (default) already: terraform import google_firestore_database.claims '(default)'

terraform {
  required_version = ">= 1.5"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.14"
    }
  }
}

variable "project" { type = string }
variable "region" { type = string }
variable "job_image" { type = string }
variable "api_image" { type = string }
variable "firestore_location" {
  type    = string
  default = "nam5" # it can never be changed
}
variable "settings" {
  type    = map(string)
  default = {} # API__CORS__ORIGINS = "https://app.example.com", …
}

provider "google" {
  project = var.project
  region  = var.region
}

locals {
  reads = ["logging.logEntries.list", "run.executions.get", "run.executions.list", "run.jobs.get"]
  settings = merge({
    API__AUTH__MODE         = "iam"
    API__CLOUD_RUN__JOB     = google_cloud_run_v2_job.job.name
    API__IDEMPOTENCY__STORE = "firestore"
    API__LIMITS__IN_FLIGHT  = "24" # with the streams below the concurrency of the service
    API__LIMITS__STREAMS    = "48"
  }, var.settings)
}

resource "google_project_service" "apis" {
  for_each           = toset(["artifactregistry", "cloudresourcemanager", "firestore", "iam", "logging", "run"])
  service            = "${each.key}.googleapis.com"
  disable_on_destroy = false
}

# --- the job: it starts with no permission at all ---

resource "google_service_account" "job" {
  account_id   = "test-job"
  display_name = "Runs the job test-job"
}

resource "google_cloud_run_v2_job" "job" {
  name     = "test-job"
  location = var.region
  template {
    task_count = 1
    template {
      service_account = google_service_account.job.email
      max_retries     = 0 # a job that is not written to be repeated must not be
      timeout         = "600s"
      containers { image = var.job_image }
    }
  }
  depends_on = [google_project_service.apis]
}

# --- what the service may do ---

resource "google_service_account" "api" {
  account_id   = "test-invoke-job-api"
  display_name = "Runs the service test-invoke-job-api-svc, which starts jobs"
}

resource "google_cloud_run_v2_job_iam_member" "starts" {
  name     = google_cloud_run_v2_job.job.name
  location = var.region
  role     = "roles/run.jobsExecutorWithOverrides"
  member   = google_service_account.api.member
}

resource "google_project_iam_custom_role" "reads" {
  role_id     = "testInvokeJobApi"
  title       = "Reads of the job-starting API"
  permissions = local.reads
}

resource "google_project_iam_member" "reads" {
  project = var.project
  role    = google_project_iam_custom_role.reads.name
  member  = google_service_account.api.member
}

resource "google_project_iam_member" "claims" {
  project = var.project
  role    = "roles/datastore.user"
  member  = google_service_account.api.member
  condition {
    title      = "one-database"
    expression = "resource.name == \"projects/${var.project}/databases/(default)\""
  }
}

# --- where starts are claimed ---

resource "google_firestore_database" "claims" {
  name            = "(default)"
  location_id     = var.firestore_location
  type            = "FIRESTORE_NATIVE"
  deletion_policy = "ABANDON" # a destroy leaves the database
  depends_on      = [google_project_service.apis]
}

resource "google_firestore_field" "expiry" {
  database   = google_firestore_database.claims.name
  collection = "starts"
  field      = "expireAt"
  ttl_config {}
}

# --- the service ---

resource "google_cloud_run_v2_service" "api" {
  name                = "test-invoke-job-api-svc"
  location            = var.region
  deletion_protection = false
  template {
    service_account                  = google_service_account.api.email
    max_instance_request_concurrency = 80
    timeout                          = "3600s" # event streams are cut at it
    scaling { max_instance_count = 1 }
    containers {
      image = var.api_image
      resources {
        limits            = { cpu = "1", memory = "256Mi" }
        startup_cpu_boost = true
        cpu_idle          = true
      }
      dynamic "env" {
        for_each = local.settings
        content {
          name  = env.key
          value = env.value
        }
      }
    }
  }
  depends_on = [google_firestore_field.expiry, google_project_iam_member.claims]
}

output "url" { value = google_cloud_run_v2_service.api.uri }
