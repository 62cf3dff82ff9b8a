"""How a program is captured: interception, the recorder, transforms, the backward sweep, names and places."""
