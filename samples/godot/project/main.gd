# What is typed goes on as the model thinks fit, while frames are drawn as ever.
extends VBoxContainer

@onready var text: RichTextLabel = $Text
@onready var line: LineEdit = $Line
@onready var writer: RiverhorseText = $Writer

func _ready() -> void:
	writer.text_drawn.connect(func(piece: String): text.add_text(piece))
	writer.finished.connect(func(_reason: String): ready_for_more())
	writer.failed.connect(tell)
	line.text_submitted.connect(submit)
	# The folder of a model is the program's argument (godot --path ... -- FOLDER), or lies in the project.
	var arguments := OS.get_cmdline_user_args()
	var folder := arguments[0] if arguments.size() > 0 else ProjectSettings.globalize_path("res://model")
	tell(writer.load_model(folder, ""))
	tell(writer.set_sampling(0.8, Time.get_ticks_usec()))

func submit(prompt: String) -> void:
	line.editable = false
	line.clear()
	text.add_text("\n" + prompt)
	tell(writer.generate(prompt, 60))

func ready_for_more() -> void:
	line.editable = true
	line.grab_focus()

func tell(error: String) -> void:
	if error != "":
		text.add_text("\n" + error)
		ready_for_more()
