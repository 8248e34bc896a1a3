"""FastAPI with its pages of documentation, and tus uploads by tuspyserver."""

import os

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from tuspyserver import create_tus_router

app = FastAPI()
app.add_middleware(CORSMiddleware, allow_origins=["*"], expose_headers=["Location"])
app.include_router(create_tus_router(prefix="files", files_dir=os.environ.get("UPLOADS", "uploads")))


@app.get("/items/", name="items")
def items(request: Request):
    return {"url": str(request.url_for("items")), "client": request.client.host}
