"""
What a run publishes: report, figures, model card and deletion record, their check and signature, and the push to the
hub.
"""
