variable "project" {
  description = "The project's id."
  type        = string
  nullable    = false
}

variable "region" {
  description = "Where the bucket lies: the cluster's region."
  type        = string
  nullable    = false
}

variable "state_bucket" {
  description = "Name of the bucket of kOps' state; unique in the world."
  type        = string
  nullable    = false
}

variable "state_kms_key" {
  description = "A key of Cloud KMS for the bucket; empty: Google's own keys."
  type        = string
  default     = ""
}
