defmodule Leash.SchemaTest do
  use ExUnit.Case, async: true

  alias Leash.{OptionsError, Schema}

  @schema Schema.new(
            size: [
              type:
                Schema.custom(
                  {__MODULE__, :at_least?, [3]},
                  "3 or more",
                  quote(do: pos_integer())
                ),
              default: 4,
              doc: "How many."
            ],
            mode: [type: Schema.one_of([:fast, :slow]), default: :fast, doc: "How."],
            path: [type: Schema.optional_text(), doc: "Where."],
            wait: [type: Schema.milliseconds(), default: 0, doc: "How long."],
            out: [type: Schema.target([:null]), default: :null, doc: "Whereto."],
            flag: [type: Schema.boolean(), default: false, doc: "Whether."]
          )

  def at_least?(value, least), do: is_integer(value) and value >= least

  defp refused(options) do
    assert {:error, %OptionsError{} = error} = Schema.validate(@schema, options)
    {error.key, error.expected, error.value}
  end

  test "what is not given has its default" do
    defaults = %{size: 4, mode: :fast, path: nil, wait: 0, out: :null, flag: false}
    assert Schema.validate(@schema, []) == {:ok, defaults}
    assert Schema.validate(@schema, %{size: 3}) == {:ok, %{defaults | size: 3}}
    assert {:ok, %{path: nil}} = Schema.validate(@schema, path: nil)
  end

  test "of an option that is given twice the first counts" do
    assert {:ok, %{size: 5}} = Schema.validate(@schema, size: 5, flag: true, size: 6)
    assert {:ok, %{size: 5}} = Schema.validate(@schema, size: 5, size: :many)
    assert {:size, _, :many} = refused(size: :many, size: 5)
  end

  test "the first mistake is the one that is reported" do
    assert refused(flag: 0, size: 2) == {:flag, "true or false", 0}
    assert refused(size: 2, flag: 0) == {:size, "3 or more", 2}
    assert {nil, "one of [:size, :mode," <> _, :sise} = refused(sise: 3, flag: 0)
    assert {nil, "a keyword list" <> _, [:flag]} = refused([:flag])
  end

  test "each type knows what it takes" do
    for {key, good, bad} <- [
          {:mode, [:fast, :slow], [nil, "fast", :other]},
          {:path, [nil, "/x", <<0xFF>>], ["", "a\0", ~c"/x", :x]},
          {:wait, [0, 0x7FFFFFFF], [nil, -1, 1.0, 0x80000000]},
          {:out, [:null, {:file, "x"}], [nil, :file, {:file, ""}, {:file, nil}]},
          {:flag, [true, false], [nil, 1]}
        ] do
      for value <- good,
          do: assert({:ok, %{^key => ^value}} = Schema.validate(@schema, [{key, value}]))

      for value <- bad, do: assert({^key, _expected, ^value} = refused([{key, value}]))
    end
  end

  test "the documentation names type and default" do
    docs = Schema.docs(@schema)
    assert docs =~ "`:size` - How many. Expects 3 or more; default `4`."
    assert docs =~ "`:path` - Where. Expects a string without NUL bytes.\n"
    assert docs =~ "`:mode` - How. Expects :fast or :slow; default `:fast`."
  end
end
