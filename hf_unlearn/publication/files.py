"""Names of the files of a run, and which of these files are published."""

# Never published: with the salt one can ask the record which images were forgotten, and the request may name them.
SALT = "unlearning_salt"
REQUEST = "forget_request.yaml"

CARD, RECORD, SIGNATURE = "README.md", "unlearning_record.json", "unlearning_record.sig"

# The only files that are published. Checkpoints, pickle files, the request and the salt are not among them.
PUBLISHED = ("*.safetensors", "*.safetensors.index.json", "config.json", "preprocessor_config.json")
PUBLISHED += ("adapter_config.json", "report.json", "figures/*.png", CARD, RECORD, SIGNATURE)
