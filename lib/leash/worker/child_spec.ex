defmodule Leash.Worker.ChildSpec do
  # How a supervisor holds a Worker: `Leash.Worker.child_spec/1`.
  @moduledoc false

  alias Leash.{Ladder, Schema}

  @options [
    id: [
      type: :any,
      doc: "The id in the supervisor."
    ],
    restart: [
      type: {:in, [:permanent, :transient, :temporary]},
      default: :permanent,
      doc: "When the supervisor starts it again."
    ],
    shutdown: [
      type: {:or, [{:in, [nil, :infinity, :brutal_kill]}, :pos_integer]},
      type_doc: "milliseconds > 0, :infinity, :brutal_kill or nil (the ladder's length and 2 s)",
      type_spec: quote(do: timeout() | :brutal_kill | nil),
      doc: "How long the supervisor waits for its end."
    ],
    significant: [
      type: :boolean,
      default: false,
      doc: "Whether its end may end the supervisor, see `Supervisor`."
    ]
  ]

  @schema Schema.new(@options)

  @spec schema() :: Schema.t()
  def schema, do: @schema

  @doc "Returns the names of these options."
  @spec keys() :: [atom()]
  def keys, do: Schema.keys(@schema)

  @typedoc """
  The same as `t:Supervisor.child_spec/0`, which does not know `:significant` before Elixir 1.15.
  """
  @type t :: %{
          id: term(),
          start: {module(), atom(), [term()]},
          type: :worker,
          restart: :permanent | :transient | :temporary,
          shutdown: timeout() | :brutal_kill,
          significant: boolean()
        }

  @doc "Returns the specification of a child that `module.start_link/1` starts."
  @spec new(module(), keyword() | map()) :: t()
  def new(module, options) do
    {own, worker} = split(options)
    own = checked!(own)

    %{
      id: own.id || id(module, worker),
      start: {module, :start_link, [worker]},
      type: :worker,
      restart: own.restart,
      shutdown: own.shutdown || shutdown(worker),
      significant: own.significant
    }
  end

  defp split(options) when is_map(options), do: Map.split(options, keys())

  defp split(options) do
    # start_link/1 raises for wrong options.
    if Keyword.keyword?(options),
      do: Keyword.split(options, keys()),
      else: {[], options}
  end

  defp checked!(own), do: Schema.unwrap!(Schema.validate(@schema, own))

  defp id(module, options) do
    case get(options, :name) do
      nil -> {module, get(options, :command) || get(options, :shell), get(options, :args) || []}
      name -> name
    end
  end

  defp shutdown(options) do
    stop = get(options, :stop) || Ladder.default()
    if Ladder.valid?(stop), do: Ladder.shutdown(stop), else: 5_000
  end

  defp get(options, key) when is_map(options), do: options[key]
  defp get(options, key), do: if(Keyword.keyword?(options), do: options[key])
end
