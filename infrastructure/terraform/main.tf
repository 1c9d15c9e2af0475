# An empty project has none of these on. They stay on when this is destroyed: others may use them.
resource "google_project_service" "needed" {
  for_each = toset([
    "cloudresourcemanager.googleapis.com",
    "compute.googleapis.com",
    "iam.googleapis.com",
    "storage.googleapis.com",
  ])
  service            = each.key
  disable_on_destroy = false
}

resource "google_storage_bucket" "kops_state" {
  #checkov:skip=CKV_GCP_62:access logs would need a second bucket, and this one holds the state of one short-lived cluster
  name                        = var.state_bucket
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  # `just down` deletes the cluster first; what is left are old versions of its state.
  force_destroy = true

  versioning {
    enabled = true
  }

  lifecycle_rule {
    condition {
      num_newer_versions = 10
      with_state         = "ARCHIVED"
    }
    action {
      type = "Delete"
    }
  }

  # What is stored is always encrypted; this names a key of one's own.
  dynamic "encryption" {
    for_each = var.state_kms_key == "" ? [] : [var.state_kms_key]
    content {
      default_kms_key_name = encryption.value
    }
  }

  depends_on = [google_project_service.needed]
}
