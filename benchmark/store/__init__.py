"""The results folder: cells and their files, condensed sets, previews. The store knows no method."""
