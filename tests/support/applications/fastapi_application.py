"""FastAPI with its pages of documentation, and tus uploads by tuspyserver."""

from fastapi import FastAPI, Request
from tuspyserver import create_tus_router

app = FastAPI()
app.include_router(create_tus_router(prefix="files", files_dir="uploads"))


@app.get("/items/", name="items")
def items(request: Request):
    return {"url": str(request.url_for("items")), "client": request.client.host}
