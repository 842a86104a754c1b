"""Who said what, can they be believed, and what did it cost?"""
