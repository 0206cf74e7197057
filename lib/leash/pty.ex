defmodule Leash.Pty do
  # The option `:pty`, a terminal for a program: its values, the options that do not go with it,
  # and the variables that describe a terminal. `guides/terminals.md` is the page for users.
  @moduledoc false

  alias Leash.{OptionsError, Schema}

  @size [type: {:in, 1..65_535}]

  @keys [
    rows: @size ++ [default: 24, doc: "Its lines."],
    cols: @size ++ [default: 80, doc: "Its columns."],
    echo: [
      type: :boolean,
      default: true,
      doc: "`false`: what is typed does not come back as output, unless the program shows it."
    ]
  ]

  @size_schema Schema.new(
                 Enum.map(Keyword.take(@keys, [:rows, :cols]), fn {key, rules} ->
                   {key, rules |> Keyword.delete(:default) |> Keyword.put(:required, true)}
                 end)
               )

  # A program asks these before it asks the terminal. Those of the VM describe the terminal that
  # the VM was started from, if any.
  @environment [{"TERM", "xterm-256color"}, {"LINES", nil}, {"COLUMNS", nil}]

  @all_three "nothing beside :pty, since the terminal is stdin, stdout and stderr in one"

  @typedoc "A checked terminal."
  @type t :: [rows: 1..65_535, cols: 1..65_535, echo: boolean()]

  @doc "The option `:pty`."
  @spec option() :: keyword()
  def option do
    [
      type: {:or, [nil, :boolean, keyword_list: @keys]},
      type_doc: "true, false or a keyword list of :rows, :cols and :echo",
      default: false,
      doc:
        "`true` gives the program a terminal: a new pseudoterminal is its controlling " <>
          "terminal, and its stdin, stdout and stderr. All of its output comes as stdout, and " <>
          "with CR LF at the end of lines. `TERM` is `xterm-256color`, unless `:env` has it. " <>
          "See `guides/terminals.md`."
    ]
  end

  @doc "Returns whether a value of the option asks for a terminal."
  defguard is_asked(value) when value not in [nil, false]

  @doc "Checks a size, both numbers of which are needed."
  @spec check_size(term(), term()) :: {:ok, map()} | {:error, OptionsError.t()}
  def check_size(rows, cols), do: Schema.validate(@size_schema, rows: rows, cols: cols)

  @doc """
  Returns the options of a worker with a terminal, from the checked and the given options.

  Its streams are `:pty`.
  """
  @spec put(map(), keyword() | map()) :: {:ok, map()} | {:error, OptionsError.t()}
  def put(options, given) do
    with :ok <- fits(given, :stdin, [:pipe]),
         :ok <- fits(given, :stdout, [:output]),
         :ok <- fits(given, :stderr, [:stdout]),
         :ok <- fits(given, :on_stderr, []),
         :ok <- attended(options) do
      {:ok,
       %{
         options
         | pty: settings(options.pty),
           stdin: :pty,
           stdout: :pty,
           stderr: :pty,
           env: @environment ++ options.env
       }}
    end
  end

  # Values that say what is so anyway are accepted.
  defp fits(given, key, accepted) do
    value = given[key]

    if value == nil or value in accepted,
      do: :ok,
      else: Schema.error(key, @all_three, value)
  end

  defp attended(%{on_exit: :detach}) do
    Schema.error(
      :on_exit,
      ":stop or :keep beside :pty, since the terminal ends with the VM",
      :detach
    )
  end

  defp attended(_options), do: :ok

  defp settings(true), do: for({key, rules} <- @keys, do: {key, rules[:default]})
  defp settings(settings), do: settings

  @doc "Refuses the options of a command that do not go with a terminal."
  @spec check_command!(map(), keyword() | map()) :: :ok
  def check_command!(own, given) do
    cond do
      own.stdin == :null ->
        Schema.refuse!(:stdin, @all_three, :null)

      own.stdout not in [:capture, :stream] ->
        Schema.refuse!(:stdout, @all_three, own.stdout)

      given[:stderr] != nil ->
        Schema.refuse!(:stderr, @all_three, given[:stderr])

      Map.get(own, :use_stdio) == false ->
        Schema.refuse!(:use_stdio, @all_three, false)

      true ->
        :ok
    end
  end
end
