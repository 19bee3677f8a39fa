"""The pages: one script each, run by Streamlit after the inputs."""
