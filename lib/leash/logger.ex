defmodule Leash.Logger do
  @moduledoc """
  Writes a line to the log for each event of `Leash.Telemetry`, if you attach it.

      def start(_type, _args) do
        :ok = Leash.Logger.attach(level: :info)
        …

  Without it, Leash logs only these lines:

    * a line if a sweep killed something
    * warnings and errors: no record can be written, a process could not be ended, a function of
      an option failed
    * the output of programs, unless `:on_output` of their worker says otherwise

  Texts of programs are shown as UTF-8 that controls no terminal. U+FFFD stands for a byte that is
  no UTF-8, and a picture such as `␛` (U+241B, ESC) for a control character.

      [info] leash worker 3 MyApp.Embedder (pool :gpu, pid 4711): started
      [warning] leash worker 3 MyApp.Embedder (pool :gpu, pid 4711): SIGKILL after 2000 ms (stop)
      [info] leash worker 3 MyApp.Embedder (pool :gpu, pid 4711): ended by SIGKILL after 61204 ms

  The module needs `:telemetry` in the host, and attaches handlers of it. If a handler fails, then
  `:telemetry` detaches it, with a line of its own.
  """

  alias Leash.{Exit, Schema, Telemetry, Text}

  require Logger

  @handler "leash-logger"

  # Ends that were requested are no news. A process that had to be killed is.
  @levels %{
    [:leash, :worker, :start] => :info,
    [:leash, :worker, :ready] => :debug,
    [:leash, :worker, :stop] => :info,
    [:leash, :kill, :step] => :info,
    [:leash, :sweep, :start] => :debug,
    [:leash, :sweep, :match] => :debug,
    [:leash, :sweep, :stop] => :info
  }

  @all_levels [:debug, :info, :notice, :warning, :error, :critical, :alert, :emergency]

  @schema Schema.new(
            level: [
              type: {:in, [nil | @all_levels]},
              default: nil,
              doc:
                "One level for every line. By default starts, ends and sweeps are `:info`. " <>
                  "A SIGKILL and survivors are `:warning`. The rest is `:debug`."
            ],
            events: [
              type: {:or, [nil, {:custom, __MODULE__, :events, []}]},
              type_doc: "a list of names of events, see Leash.Telemetry.events/0",
              type_spec: quote(do: [[atom(), ...]] | nil),
              default: nil,
              doc:
                "The events that are logged. The default is all of " <>
                  "`Leash.Telemetry.events/0`."
            ]
          )

  @typedoc "An option of `attach/1`."
  @type option :: unquote(Schema.typespec(@schema))

  @doc """
  Attaches the handlers, and replaces those attached before.

  ## Options

  #{Schema.docs(@schema)}
  ## Errors

    * `:no_telemetry` - the host has no `:telemetry`, or it is not started

  Raises `Leash.OptionsError` if an option is wrong. Then the attached handlers stay.
  """
  @spec attach([option()]) :: :ok | {:error, :no_telemetry}
  def attach(options \\ []) do
    options = Schema.unwrap!(Schema.validate(@schema, options))

    with :ok <- detach() do
      events = options.events || Telemetry.events()
      telemetry(:attach_many, [@handler, events, &__MODULE__.handle/4, options.level])
    end
  end

  @doc "Detaches the handlers. Does nothing if none is attached."
  @spec detach() :: :ok | {:error, :no_telemetry}
  def detach do
    with {:error, :not_found} <- telemetry(:detach, [@handler]), do: :ok
  end

  # `apply/3`, because the compiler warns of a call to a module that does not exist. If :telemetry
  # is loaded but not started, then it has no table.
  defp telemetry(function, arguments) do
    if Code.ensure_loaded?(:telemetry),
      do: apply(:telemetry, function, arguments),
      else: {:error, :no_telemetry}
  rescue
    ArgumentError -> {:error, :no_telemetry}
  end

  @doc false
  @spec events(term()) :: {:ok, [[atom(), ...]]} | {:error, String.t()}
  def events(events) do
    if is_list(events) and Enum.all?(events, &(&1 in Telemetry.events())),
      do: {:ok, events},
      else: {:error, "a list of names of events"}
  end

  @doc false
  @spec handle([atom()], map(), map(), Logger.level() | nil) :: :ok
  def handle(event, measurements, metadata, level) do
    Logger.log(level || level(event, measurements, metadata), fn ->
      text(event, measurements, metadata)
    end)
  end

  defp level([:leash, :kill, :step], _measurements, %{signal: :sigkill}), do: :warning

  defp level([:leash, :sweep, :stop], %{survivors: survivors}, _metadata) when survivors > 0,
    do: :warning

  defp level([:leash, :sweep, :match], _measurements, %{match: %{action: action}})
       when action in [:ended, :gone],
       do: :info

  defp level([:leash, :sweep, :match], _measurements, %{match: %{action: :survived}}),
    do: :warning

  # A breach of a guard, a failed check of health, and events that this module does not know.
  defp level(event, _measurements, _metadata), do: Map.get(@levels, event, :warning)

  defp text([:leash, :worker, :start], _measurements, metadata),
    do: [
      label(metadata),
      ": " <>
        "started"
    ]

  defp text([:leash, :worker, :ready], %{duration: duration}, metadata),
    do: [label(metadata), ": ready after ", ms(duration)]

  defp text([:leash, :worker, :stop], %{duration: duration}, metadata),
    do: [label(metadata), ": ended", how(metadata.exit), " after ", ms(duration)]

  defp text([:leash, :worker, :survivors], _measurements, %{survivors: []} = metadata),
    do: [label(metadata), ": whether anything is left cannot be seen"]

  defp text([:leash, :worker, :survivors], _measurements, %{survivors: survivors} = metadata) do
    left = Enum.map_join(survivors, ", ", &"#{&1.pid} (#{Text.printable(&1.command)}, #{&1.why})")

    [label(metadata), ": could not end ", left]
  end

  # A step of the ladder that is not a signal.
  defp text([:leash, :kill, :step], %{elapsed: elapsed}, %{command: command} = metadata),
    do: [
      label(metadata),
      ": ",
      Text.printable(inspect(command, binaries: :as_strings)),
      " after ",
      ms(elapsed),
      " (#{metadata.cause})"
    ]

  defp text([:leash, :kill, :step], %{elapsed: elapsed}, %{stdin: :closed} = metadata),
    do: [label(metadata), ": end of stdin after ", ms(elapsed), " (#{metadata.cause})"]

  defp text([:leash, :kill, :step], %{elapsed: elapsed}, metadata),
    do: [
      label(metadata),
      ": ",
      name(metadata.signal),
      " after ",
      ms(elapsed),
      " (#{metadata.cause})"
    ]

  defp text([:leash, :sweep, :start], _measurements, metadata),
    do: ["leash sweep (", to_string(metadata.mode), ") begins"]

  defp text([:leash, :sweep, :match], _measurements, %{match: match}) do
    by = if match[:ended_by], do: " by #{match.ended_by}", else: ""

    command = match[:command] |> to_string() |> Text.printable()

    "leash sweep: #{match.action}#{by}: process #{match.pid} (#{command}) of run " <>
      "#{match[:run_id]}: " <>
      "#{match[:verdict]}, #{match[:why]}"
  end

  defp text([:leash, :sweep, :stop], measurements, metadata) do
    incomplete = if metadata.complete, do: "", else: "; not everything could be seen"

    "leash sweep (#{metadata.mode}): #{measurements.matches} tagged processes, " <>
      "#{measurements.survivors} left " <>
      "after #{ms(measurements.duration)}#{incomplete}"
  end

  # Events that this module does not know: first those of a worker, then others.
  defp text([:leash | event], measurements, %{kind: _, worker: _, label: _} = metadata) do
    more = Map.drop(metadata, [:run_id, :worker, :kind, :label, :group, :pid, :os_pid, :shim_pid])
    [label(metadata), ": ", Enum.join(event, " "), " ", values(Map.merge(measurements, more))]
  end

  defp text(event, measurements, metadata),
    do: [Enum.join(event, " "), ": ", values(Map.merge(measurements, metadata))]

  defp values(map),
    do:
      map
      |> Enum.sort()
      |> Enum.map_join(", ", fn {key, value} -> "#{key}: #{Text.printable(inspect(value))}" end)

  defp label(metadata) do
    group =
      if metadata.group != nil, do: "group #{Text.printable(inspect(metadata.group))}, ", else: ""

    pid = if metadata.os_pid, do: "pid #{metadata.os_pid}", else: "shim #{metadata.shim_pid}"
    "leash #{metadata.kind} #{metadata.worker} #{Text.printable(metadata.label)} (#{group}#{pid})"
  end

  defp how(%Exit{signal: signal}) when signal != nil, do: [" by ", name(signal)]
  defp how(%Exit{status: status}), do: " with status #{status}"
  defp how(nil), do: ""

  defp name(signal), do: signal |> to_string() |> String.upcase()

  defp ms(native), do: "#{System.convert_time_unit(native, :native, :millisecond)} ms"
end
