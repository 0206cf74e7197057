defmodule Leash.Pool do
  @moduledoc """
  A supervisor of numbered workers, which end in parallel and under one deadline.

      children = [
        {Leash.Pool,
         name: MyApp.Embedders,
         size: 4,
         worker: [command: "embedder", args: ["--port", "80{n}"], env: %{"SLOT" => "{n}"}]}
      ]

  Each worker is a `Leash.Worker` with a number from 1 up to `:size`. `{n}` in its arguments, in
  values of its variables and in names of its files stands for that number. For anything else,
  `:worker` is a function of the number that returns options.

      Leash.Worker.write(Leash.Pool.worker(MyApp.Embedders, 1), "a line")

  A worker that ends is started again under its number, as `:restart` of its options says. When
  the pool ends, `Leash.stop_all/2` ends all of its workers together. So the end takes as long as
  the longest ladder and at most `:deadline`, and not the sum of the ladders.

  The pool hands nothing out. `NimblePool` and poolboy do that. `guides/pools.md` tells the rest.
  """

  alias Leash.{Group, Schema}
  alias Leash.Pool.{Stopper, Template}
  alias Leash.Worker.{ChildSpec, Options}

  @schema Schema.new(
            name: [
              type: {:custom, __MODULE__, :name, []},
              type_doc: "an atom",
              type_spec: quote(do: atom()),
              required: true,
              doc: "Registers the supervisor under this name, which is also in the labels."
            ],
            size: [
              type: {:in, 1..10_000},
              type_spec: quote(do: pos_integer()),
              required: true,
              doc: "The number of workers."
            ],
            worker: [
              type: {:custom, Template, :check, []},
              type_doc: Template.expected(),
              type_spec: quote(do: keyword() | map() | (pos_integer() -> keyword() | map())),
              required: true,
              doc:
                "The options of `Leash.Worker.child_spec/1` without `:name`, `:group` and " <>
                  "`:id`, or a function of the number that returns them."
            ],
            group: Group.option("The group of the workers. The default is `{Leash.Pool, name}`."),
            deadline: [
              type: Schema.milliseconds(),
              default: 5_000,
              doc:
                "Milliseconds after which everything that is left gets SIGKILL when the pool " <>
                  "ends."
            ],
            max_restarts: [
              type: :non_neg_integer,
              default: 3,
              doc: "As in `Supervisor`, for all workers together."
            ],
            max_seconds: [type: :pos_integer, default: 5, doc: "As in `Supervisor`."]
          )

  # `stop_all` may take four seconds more than its deadline.
  @more_ms 5_000

  @typedoc "An option of `start_link/1`."
  @type option :: unquote(Schema.typespec(@schema))

  @doc false
  @spec name(term()) :: {:ok, atom()} | {:error, String.t()}
  def name(name) when is_atom(name) and name not in [nil, true, false], do: {:ok, name}
  def name(_other), do: {:error, "an atom"}

  @doc """
  Returns a child specification, whose `id` is the name.

  Its `:shutdown` is the deadline and five seconds more, which `Leash.stop_all/2` may take.
  """
  @spec child_spec([option()] | map()) :: Supervisor.child_spec()
  def child_spec(options) do
    %{
      id: options[:name] || __MODULE__,
      start: {__MODULE__, :start_link, [options]},
      type: :supervisor,
      shutdown: shutdown(options[:deadline])
    }
  end

  # start_link/1 raises for a wrong one.
  defp shutdown(ms) when is_integer(ms) and ms >= 0, do: ms + @more_ms
  defp shutdown(_default), do: @schema.defaults.deadline + @more_ms

  @doc """
  Starts the pool and all of its workers, one after the other.

  ## Options

  #{Schema.docs(@schema)}
  If a worker cannot be started, then the others are ended, and the result is `{:error, reason}`
  of `Supervisor.start_link/2`. Raises `Leash.OptionsError` if an option is wrong, also one of a
  worker. Nothing is started then.
  """
  @spec start_link([option()] | map()) :: Supervisor.on_start()
  def start_link(options) do
    pool = Schema.unwrap!(Schema.validate(@schema, options))
    group = pool.group || {__MODULE__, pool.name}
    names = names(pool.name)
    workers = for number <- 1..pool.size, do: child(pool, group, number)

    # The last one is ended first.
    children =
      [{Registry, keys: :unique, name: names}] ++
        workers ++ [Stopper.child_spec(group, pool.deadline, pool.deadline + @more_ms)]

    Supervisor.start_link(children,
      strategy: :one_for_one,
      name: pool.name,
      max_restarts: pool.max_restarts,
      max_seconds: pool.max_seconds
    )
  end

  defp child(pool, group, number) do
    options = Template.options(pool.worker, number)
    label = options[:label] || "#{inspect(pool.name)} #{number}"
    own = [name: worker(pool.name, number), group: group, label: label]
    options = Keyword.merge(options, own)
    # Before anything starts.
    _checked = Schema.unwrap!(Options.validate(Keyword.drop(options, ChildSpec.keys())))
    Leash.Worker.child_spec([id: number] ++ options)
  end

  defp names(pool), do: Module.concat(pool, Names)

  @doc "Returns the name of a worker, for the calls of `Leash.Worker`."
  @spec worker(atom(), pos_integer()) :: GenServer.name()
  def worker(pool, number), do: {:via, Registry, {names(pool), number}}

  @doc """
  Returns the workers that live, by number: those that are starting are among them.

  The list is empty if there is no such pool.
  """
  @spec workers(atom()) :: [{pos_integer(), pid()}]
  def workers(pool) do
    names(pool) |> Registry.select([{{:"$1", :"$2", :_}, [], [{{:"$1", :"$2"}}]}]) |> Enum.sort()
  rescue
    ArgumentError -> []
  end
end
