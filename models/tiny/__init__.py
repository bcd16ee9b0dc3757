"""The small trained InstaFace that ships with the repository: its weights, and the scripts that train its frozen parts."""
